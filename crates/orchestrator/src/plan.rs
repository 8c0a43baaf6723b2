//! The graph as dispatch needs it: which process after which, per input.

use std::collections::BTreeSet;

/// Everything dispatch needs to know of a graph without cycles. Inputs and processes go by their index.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) routes: Vec<Route>,
    pub(crate) inputs: Vec<InputPlan>,
}

/// The way of one input's events into one process. Order per key is kept per route.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) process: usize,
    /// Its number among the routes of its input.
    pub(crate) local: usize,
    /// The routes whose processes come directly after this one.
    pub(crate) next: Vec<u32>,
}

/// What becomes of an event of one input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InputPlan {
    /// The routes that it enters at once.
    pub(crate) entry: Vec<u32>,
    /// How many processes it can reach.
    pub(crate) processes: u32,
    /// Per local route, how many processes come directly before it; empty where none has more than one.
    pub(crate) joins: Vec<u32>,
}

impl Plan {
    /// Lays out the routes for `inputs` many inputs. `from_input` holds (input, process), `onward` (process, process).
    pub(crate) fn new(inputs: usize, from_input: &[(usize, usize)], onward: &[(usize, usize)]) -> Self {
        let mut plan = Self { routes: Vec::new(), inputs: Vec::new() };
        for input in 0..inputs {
            plan.add_input(input, from_input, onward);
        }
        plan
    }

    fn add_input(&mut self, input: usize, from_input: &[(usize, usize)], onward: &[(usize, usize)]) {
        let direct = from_input.iter().filter(|link| link.0 == input).map(|link| link.1);
        let mut reached: BTreeSet<usize> = BTreeSet::new();
        let mut look_at: Vec<usize> = direct.collect();
        while let Some(process) = look_at.pop() {
            if reached.insert(process) {
                look_at.extend(onward.iter().filter(|link| link.0 == process).map(|link| link.1));
            }
        }
        let reached: Vec<usize> = reached.into_iter().collect();
        let first = u32::try_from(self.routes.len()).expect("a graph has far fewer than 2^32 routes");
        let route_of =
            |process: usize| reached.binary_search(&process).ok().map(|local| first + local as u32);

        let mut joins = vec![0_u32; reached.len()];
        for (local, &process) in reached.iter().enumerate() {
            let next: Vec<u32> =
                onward.iter().filter(|link| link.0 == process).filter_map(|link| route_of(link.1)).collect();
            for &after in &next {
                joins[(after - first) as usize] += 1;
            }
            self.routes.push(Route { process, local, next });
        }
        let entry =
            (first..).zip(&joins).filter(|(_, before)| **before == 0).map(|(route, _)| route).collect();
        let processes = joins.len() as u32;
        if joins.iter().all(|&before| before <= 1) {
            joins.clear();
        }
        self.inputs.push(InputPlan { entry, processes, joins });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_several_before_it_waits_for_all() {
        // 0 and 1 behind input 0, both before 2; 2 before 3; input 1 reaches 2 directly.
        let plan = Plan::new(2, &[(0, 0), (0, 1), (1, 2)], &[(0, 2), (1, 2), (2, 3)]);
        assert_eq!(plan.inputs[0], InputPlan { entry: vec![0, 1], processes: 4, joins: vec![0, 0, 2, 1] });
        assert_eq!(plan.inputs[1], InputPlan { entry: vec![4], processes: 2, joins: vec![] });
        assert_eq!(plan.routes[0], Route { process: 0, local: 0, next: vec![2] });
        assert_eq!(plan.routes[4], Route { process: 2, local: 0, next: vec![5] });
    }

    #[test]
    fn a_shortcut_past_a_process_does_not_run_the_next_one_early() {
        let plan = Plan::new(1, &[(0, 0), (0, 1)], &[(0, 1)]);
        assert_eq!(plan.inputs[0].entry, [0]);
        assert_eq!(plan.inputs[0].processes, 2);
    }
}
