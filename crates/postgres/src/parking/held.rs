//! Which lanes something is parked in. Pure, and of bounded size.

use std::collections::HashMap;

/// Lanes that are known one by one. Beyond that a filter takes their place, which may say *held* of a lane that is not:
/// its events then take the longer way through the database, in order all the same.
const MOST_KNOWN: usize = 65_536;
/// Words of the filter: 2 MiB.
const FILTER_WORDS: usize = 1 << 18;
/// How many bits of the filter stand for a lane.
const PROBES: u32 = 4;

/// A lane is *held* while a row of it is in the table, or on its way there.
#[derive(Debug)]
pub(crate) struct HeldLanes {
    known: HashMap<i64, Held>,
    filter: Option<Box<[u64]>>,
    most_known: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// Parcels on their way to the table.
    pending: u32,
    /// Whether the table has rows.
    rows: bool,
}

impl HeldLanes {
    pub(crate) fn new() -> Self {
        Self { known: HashMap::new(), filter: None, most_known: MOST_KNOWN }
    }

    /// Forgets what the table was said to have; what is on its way stays.
    pub(crate) fn reload(&mut self) {
        self.filter = None;
        self.known.retain(|_, held| {
            held.rows = false;
            held.pending > 0
        });
    }

    /// The table has rows of this lane.
    pub(crate) fn found(&mut self, lane: i64) {
        let known = self.known.len() + usize::from(!self.known.contains_key(&lane));
        if self.filter.is_none() && known > self.most_known {
            let mut filter = vec![0; FILTER_WORDS].into_boxed_slice();
            self.known.iter().filter(|(_, held)| held.rows).for_each(|(&lane, _)| set(&mut filter, lane));
            self.known.retain(|_, held| held.pending > 0);
            self.filter = Some(filter);
        }
        match &mut self.filter {
            Some(filter) => set(filter, lane),
            None => self.known.entry(lane).or_default().rows = true,
        }
    }

    /// A parcel is on its way to the table.
    pub(crate) fn sent(&mut self, lane: i64) {
        self.known.entry(lane).or_default().pending += 1;
    }

    /// A parcel that was on its way is in the table.
    pub(crate) fn arrived(&mut self, lane: i64) {
        self.found(lane);
        if let Some(held) = self.known.get_mut(&lane) {
            held.pending = held.pending.saturating_sub(1);
            if held.pending == 0 && !held.rows {
                self.known.remove(&lane);
            }
        }
    }

    /// The table has no rows of this lane any more.
    pub(crate) fn emptied(&mut self, lane: i64) {
        if let Some(held) = self.known.get_mut(&lane) {
            held.rows = false;
            if held.pending == 0 {
                self.known.remove(&lane);
            }
        }
    }

    /// Whether the lane is held; may say so without need.
    pub(crate) fn is_held(&self, lane: i64) -> bool {
        self.known.contains_key(&lane) || self.filter.as_deref().is_some_and(|filter| is_set(filter, lane))
    }

    /// Whether no lane is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.filter.is_none()
    }

    /// Whether lanes may be said to be held without need.
    pub(crate) fn is_coarse(&self) -> bool {
        self.filter.is_some()
    }
}

/// The words and bits that stand for a lane, which is a hash already.
fn bits(lane: i64) -> impl Iterator<Item = (usize, u64)> {
    let (first, step) = (lane as u64, (lane as u64).rotate_left(32) | 1);
    (0..PROBES).map(move |probe| {
        let bit = first.wrapping_add(step.wrapping_mul(u64::from(probe))) % (FILTER_WORDS as u64 * 64);
        ((bit / 64) as usize, 1 << (bit % 64))
    })
}

fn set(filter: &mut [u64], lane: i64) {
    bits(lane).for_each(|(word, bit)| filter[word] |= bit);
}

fn is_set(filter: &[u64], lane: i64) -> bool {
    bits(lane).all(|(word, bit)| filter[word] & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[derive(Clone, Debug)]
    enum Step {
        Send(i64),
        /// The oldest parcel on its way arrives.
        Arrive,
        /// The table loses its first row of the lane.
        Finish(i64),
        Reload,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let lane = || (0_i64..8).prop_map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64));
        let step = prop_oneof![
            4 => lane().prop_map(Step::Send),
            4 => Just(Step::Arrive),
            4 => lane().prop_map(Step::Finish),
            1 => Just(Step::Reload),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn a_lane_with_rows_or_parcels_is_held_and_with_room_no_other_is(
            steps in steps(),
            most_known in prop::sample::select(vec![0_usize, 1, 3, 100]),
        ) {
            let mut held = HeldLanes { most_known, ..HeldLanes::new() };
            let (mut on_their_way, mut rows) = (Vec::new(), BTreeMap::<i64, u32>::new());
            let mut seen = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Send(lane) => {
                        seen.insert(lane);
                        held.sent(lane);
                        on_their_way.push(lane);
                    }
                    Step::Arrive if on_their_way.is_empty() => {}
                    Step::Arrive => {
                        let lane = on_their_way.remove(0);
                        *rows.entry(lane).or_default() += 1;
                        held.arrived(lane);
                    }
                    Step::Finish(lane) => {
                        if let Some(count) = rows.get_mut(&lane) {
                            *count -= 1;
                            if *count == 0 {
                                rows.remove(&lane);
                                held.emptied(lane);
                            }
                        }
                    }
                    Step::Reload => {
                        held.reload();
                        rows.keys().for_each(|&lane| held.found(lane));
                    }
                }
                for &lane in &seen {
                    let must = on_their_way.contains(&lane) || rows.contains_key(&lane);
                    prop_assert!(held.is_held(lane) || !must, "lane {lane} is let go");
                    prop_assert!(must || held.is_coarse() || !held.is_held(lane), "lane {lane} stays held");
                }
                prop_assert!(held.known.len() <= most_known.max(1) + on_their_way.len());
            }
        }
    }

    #[test]
    fn millions_of_lanes_take_no_more_memory_and_few_others_are_taken_for_held() {
        let lane = |n: u64| {
            (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (n << 17)).wrapping_mul(0xBF58_476D_1CE4_E5B9) as i64
        };
        let mut held = HeldLanes::new();
        (0..1_000_000).for_each(|n| held.found(lane(n)));
        assert!(held.known.is_empty() && held.is_coarse());
        assert!((0..1_000_000).all(|n| held.is_held(lane(n))));
        let wrongly = (1_000_000..1_100_000).filter(|&n| held.is_held(lane(n))).count();
        assert!(wrongly < 5_000, "{wrongly} of 100,000");
    }
}
