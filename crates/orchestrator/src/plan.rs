//! The graph as dispatch needs it: which process after which, per input.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::reach::{FilteredLink, Filters};

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
    /// The local numbers of all routes that come after this one, near or far.
    pub(crate) behind: Vec<usize>,
    /// How many processes come directly before this one.
    pub(crate) before: u32,
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
    /// All routes of the input.
    pub(crate) routes: Range<u32>,
    /// Where one of its links has a filter.
    pub(crate) filters: Option<Box<Filters>>,
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

    /// Adds the filters of the links that it was laid out for.
    pub(crate) fn with_filters(mut self, from_input: &[FilteredLink], onward: &[FilteredLink]) -> Self {
        for input in 0..self.inputs.len() {
            self.inputs[input].filters = Filters::of(&self, input, from_input, onward).map(Box::new);
        }
        self
    }

    /// The route of one input's events into one process.
    pub(crate) fn route(&self, input: usize, process: usize) -> Option<u32> {
        let mut look_at = self.inputs[input].routes.clone();
        look_at.find(|&route| self.routes[route as usize].process == process)
    }

    fn behind(&self, first: u32, local: usize) -> Vec<usize> {
        let mut behind: BTreeSet<usize> = BTreeSet::new();
        let mut look_at = vec![local];
        while let Some(local) = look_at.pop() {
            for &next in &self.routes[first as usize + local].next {
                let next = (next - first) as usize;
                if behind.insert(next) {
                    look_at.push(next);
                }
            }
        }
        behind.into_iter().collect()
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
            self.routes.push(Route { process, local, next, behind: Vec::new(), before: 0 });
        }
        for (local, &before) in joins.iter().enumerate() {
            let behind = self.behind(first, local);
            let route = &mut self.routes[first as usize + local];
            (route.behind, route.before) = (behind, before);
        }
        let entry =
            (first..).zip(&joins).filter(|(_, before)| **before == 0).map(|(route, _)| route).collect();
        let processes = joins.len() as u32;
        if joins.iter().all(|&before| before <= 1) {
            joins.clear();
        }
        let routes = first..first + processes;
        self.inputs.push(InputPlan { entry, processes, joins, routes, filters: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_several_before_it_waits_for_all() {
        // 0 and 1 behind input 0, both before 2; 2 before 3; input 1 reaches 2 directly.
        let plan = Plan::new(2, &[(0, 0), (0, 1), (1, 2)], &[(0, 2), (1, 2), (2, 3)]);
        let of =
            |entry, processes, joins, routes| InputPlan { entry, processes, joins, routes, filters: None };
        assert_eq!(plan.inputs[0], of(vec![0, 1], 4, vec![0, 0, 2, 1], 0..4));
        assert_eq!(plan.inputs[1], of(vec![4], 2, vec![], 4..6));
        let route = |process, local, next, behind, before| Route { process, local, next, behind, before };
        assert_eq!(plan.routes[0], route(0, 0, vec![2], vec![2, 3], 0));
        assert_eq!(plan.routes[2], route(2, 2, vec![3], vec![3], 2));
        assert_eq!(plan.routes[4], route(2, 0, vec![5], vec![1], 0));
        assert_eq!((plan.route(0, 2), plan.route(1, 2), plan.route(1, 0)), (Some(2), Some(4), None));
        let event = dapper_core::Event::new("t", dapper_core::Operation::Create, "1", "i");
        assert_eq!(plan.ahead_for(0, &event, 3), [0, 1, 2]);
    }

    #[test]
    fn a_shortcut_past_a_process_does_not_run_the_next_one_early() {
        let plan = Plan::new(1, &[(0, 0), (0, 1)], &[(0, 1)]);
        assert_eq!(plan.inputs[0].entry, [0]);
        assert_eq!(plan.inputs[0].processes, 2);
    }
}
