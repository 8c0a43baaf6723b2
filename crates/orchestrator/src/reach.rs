//! Which processes an event reaches where links have filters.
//!
//! That follows from the event and the filters alone, so it is worked out anew whenever it is needed: when the event
//! enters, when it is stored, and when it goes on after that, maybe in another program.

use std::sync::Arc;

use dapper_core::Event;

use crate::filter::Filter;
use crate::plan::Plan;

/// The links of one input's routes, where at least one of them has a filter. Routes go by their local numbers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Filters {
    /// From the input.
    direct: Vec<(usize, Option<Arc<Filter>>)>,
    /// From a process that comes before to one that comes after it, those from earlier processes first.
    onward: Vec<(usize, usize, Option<Arc<Filter>>)>,
}

/// A link from one index to another, with its filter.
pub(crate) type FilteredLink = (usize, usize, Option<Arc<Filter>>);

/// What one event reaches.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// By local number, whether it gets there.
    pub(crate) reached: Vec<bool>,
    /// By local number, how many processes that it reaches come directly before.
    pub(crate) before: Vec<u32>,
}

impl Filters {
    /// The filters of an input; nothing where none of its links has one. `from_input` holds (input, process), `onward`
    /// (process, process).
    pub(crate) fn of(
        plan: &Plan,
        input: usize,
        from_input: &[FilteredLink],
        onward: &[FilteredLink],
    ) -> Option<Self> {
        let first = plan.inputs[input].routes.start;
        let local = |process: usize| plan.route(input, process).map(|route| (route - first) as usize);
        let direct = from_input.iter().filter(|link| link.0 == input);
        let direct: Vec<_> =
            direct.filter_map(|(_, to, filter)| Some((local(*to)?, filter.clone()))).collect();
        let links = onward.iter();
        let links = links.filter_map(|(from, to, filter)| Some((local(*from)?, local(*to)?, filter.clone())));
        let mut onward: Vec<_> = links.collect();
        if direct.iter().all(|link| link.1.is_none()) && onward.iter().all(|link| link.2.is_none()) {
            return None;
        }
        // Whoever comes before another has more behind it.
        let behind = |local: usize| plan.routes[first as usize + local].behind.len();
        onward.sort_by_key(|link| std::cmp::Reverse(behind(link.0)));
        Some(Self { direct, onward })
    }
}

impl Plan {
    /// What the event reaches; nothing where no link of the input has a filter. `at` is the route at which it was stored,
    /// if it was: that one it has reached, whatever the filters say now.
    pub(crate) fn reach(&self, input: usize, event: &Event, at: Option<u32>) -> Option<Reach> {
        let plan = &self.inputs[input];
        let filters = plan.filters.as_deref()?;
        let takes = |filter: &Option<Arc<Filter>>| filter.as_ref().is_none_or(|filter| filter.matches(event));
        let mut reached = vec![false; plan.routes.len()];
        if let Some(at) = at {
            reached[self.routes[at as usize].local] = true;
        }
        for (to, filter) in &filters.direct {
            reached[*to] = reached[*to] || takes(filter);
        }
        for (from, to, filter) in &filters.onward {
            reached[*to] = reached[*to] || (reached[*from] && takes(filter));
        }
        let mut before = vec![0; reached.len()];
        for (from, to, _) in &filters.onward {
            before[*to] += u32::from(reached[*from]);
        }
        Some(Reach { reached, before })
    }

    /// The local numbers of the routes that come after one and have to wait for it: all of them, or, with filters, those
    /// that the event reaches by way of others that it reaches.
    pub(crate) fn behind_for(&self, input: usize, event: &Event, route: u32) -> Vec<usize> {
        match self.reach(input, event, Some(route)) {
            None => self.routes[route as usize].behind.clone(),
            Some(reach) => self.behind_in(&reach, input, route),
        }
    }

    /// The routes after which an event comes to this one.
    pub(crate) fn ahead_for(&self, input: usize, event: &Event, route: u32) -> Vec<u32> {
        let local = self.routes[route as usize].local;
        let is_ahead = |other: &u32| self.behind_for(input, event, *other).contains(&local);
        self.inputs[input].routes.clone().filter(is_ahead).collect()
    }

    /// The same as [`behind_for`](Self::behind_for), for what is known to be reached.
    pub(crate) fn behind_in(&self, reach: &Reach, input: usize, route: u32) -> Vec<usize> {
        let first = self.inputs[input].routes.start;
        let mut is_behind = vec![false; reach.reached.len()];
        let mut look_at = vec![route];
        while let Some(route) = look_at.pop() {
            for &next in &self.routes[route as usize].next {
                let local = (next - first) as usize;
                if reach.reached[local] && !is_behind[local] {
                    is_behind[local] = true;
                    look_at.push(next);
                }
            }
        }
        (0..is_behind.len()).filter(|&local| is_behind[local]).collect()
    }
}
