//! Links that let only some events through, in graphs of any shape, with events that are parked on the way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Feed, event, failure, fed, process, recorder, soon, start, success};
use dapper_core::{Delivery, Entry, Event, Fate, Operation, Parcel, Parking, RawJson, Stored, Terms};
use dapper_orchestrator::{Condition, Filter, Orchestrator, RetryPolicy, Test, Value};

const OPERATIONS: [Operation; 4] =
    [Operation::Create, Operation::Update, Operation::Delete, Operation::Truncate];

fn paid() -> Filter {
    let test = Test::In(vec![Value::Text("paid".to_owned())]);
    Filter::default().with_condition(Condition::new("new.status", test).unwrap())
}

fn with_status(id: &str, status: &str) -> Event {
    let mut event = event(id);
    event.new = Some(RawJson::parse(format!("{{\"status\":{status:?}}}")).unwrap());
    event
}

#[tokio::test(start_paused = true)]
async fn an_event_goes_where_a_link_takes_it_and_is_handled_where_none_does() {
    let (input, mut feed) = fed("in");
    let ((all, mut all_seen), (some, mut some_seen)) = (recorder("all"), recorder("some"));
    let (after, mut after_seen) = recorder("after");
    let tables = |pattern| Filter::default().with_tables([pattern]).unwrap();
    let orchestrator = Orchestrator::builder()
        .add_input(input)
        .add_process(all)
        .add_process(some)
        .add_process(after)
        .add_filtered_link("in", "all", tables("public.*"))
        .add_filtered_link("in", "some", paid())
        .add_link("some", "after")
        .build()
        .unwrap();
    let running = start(orchestrator);
    let mut elsewhere = with_status("3", "open");
    elsewhere.location = "sales.t".into();
    feed.send(vec![with_status("1", "paid"), with_status("2", "open"), elsewhere]);
    assert_eq!(feed.settled().await, Some((3, true)));
    let ids = |seen: &mut tokio::sync::mpsc::UnboundedReceiver<Event>| {
        std::iter::from_fn(|| seen.try_recv().ok()).map(|event| event.id).collect::<BTreeSet<_>>()
    };
    assert_eq!(ids(&mut all_seen), ["1", "2"].map(str::to_owned).into());
    assert_eq!(ids(&mut some_seen), ["1"].map(str::to_owned).into());
    assert_eq!(ids(&mut after_seen), ["1"].map(str::to_owned).into());
    running.stop().await.unwrap();
}

/// What is stored, in order; keeps every promise of the trait but that of outliving the program.
#[derive(Default)]
struct Kept {
    parcels: Mutex<VecDeque<Parcel>>,
}

impl Parking for Kept {
    fn is_held(&self, _: &str, _: &Event) -> bool {
        false
    }
    fn store(&self, parcel: Parcel) {
        self.parcels.lock().unwrap().push_back(parcel);
    }
}

/// The first process is linked to the last by way of one that the event does not reach: what is stored for the first must not
/// count for the last, whose run is cut off.
#[tokio::test(start_paused = true)]
async fn what_is_stored_counts_only_for_those_that_get_the_event_after_it() {
    let (input, mut feed) = fed("in");
    let last = process("last", |_| std::future::pending());
    let policy = RetryPolicy { quick_attempts: 1, ..RetryPolicy::default() };
    let orchestrator = Orchestrator::builder()
        .add_input(input)
        .add_process_with(process("first", |_| async { failure("always") }), policy)
        .add_process(recorder("between").0)
        .add_process(last)
        .add_link("in", "first")
        .add_filtered_link("first", "between", paid())
        .add_link("between", "last")
        .add_link("in", "last")
        .drain_deadline(Duration::from_millis(10))
        .build()
        .unwrap();
    let running = start(orchestrator);
    let kept = Arc::new(Kept::default());
    let parking = Some(Arc::clone(&kept) as Arc<dyn Parking>);
    feed.deliver(Delivery::with_terms(vec![event("1")], Terms { parking, ..Terms::default() }));
    let parcel = loop {
        if let Some(parcel) = kept.parcels.lock().unwrap().pop_front() {
            break parcel;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert_eq!(parcel.process, "first");
    parcel.settle.stored();
    running.begin_stop();
    assert_eq!(feed.settled().await, Some((0, false)), "the last process has not handled it");
    running.stop().await.unwrap();
}

/// A graph made up from a seed. Processes go by numbers; links lead from lower to higher ones.
struct Case {
    processes: usize,
    /// From the input (`None`) or a process, to a process, for these operations; for all where that is `None`.
    links: Vec<(Option<usize>, usize, Option<Vec<Operation>>)>,
    /// Processes that fail on an operation, the first time.
    failing: BTreeSet<(usize, Operation)>,
}

impl Case {
    fn new(random: &mut fastrand::Rng) -> Self {
        let processes = random.usize(1..=6);
        let mut links = Vec::new();
        let operations = |random: &mut fastrand::Rng| {
            let filtered = random.f32() < 0.6;
            filtered.then(|| OPERATIONS.into_iter().filter(|_| random.bool()).collect())
        };
        for to in 0..processes {
            for from in (0..to).map(Some).chain([None]) {
                if random.f32() < 0.5 || (from.is_none() && to == 0) {
                    links.push((from, to, operations(random)));
                }
            }
        }
        let failing = (0..processes).flat_map(|process| OPERATIONS.map(|operation| (process, operation)));
        let failing = failing.filter(|_| random.f32() < 0.3).collect();
        Self { processes, links, failing }
    }

    /// The processes that an event with that operation reaches.
    fn reached(&self, operation: Operation) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        for process in 0..self.processes {
            let is_taken = self.links.iter().any(|(from, to, operations)| {
                *to == process
                    && from.is_none_or(|from| reached.contains(&from))
                    && operations.as_ref().is_none_or(|operations| operations.contains(&operation))
            });
            if is_taken {
                reached.insert(process);
            }
        }
        reached
    }

    /// Runs one event of each operation through the graph; gives the successful runs in their order.
    async fn run(&self, stop_first: bool) -> Vec<(usize, Operation)> {
        let (input, mut feed) = fed("in");
        let runs = Arc::new(Mutex::new((Vec::new(), BTreeMap::new())));
        let mut builder = Orchestrator::builder().add_input(input);
        let policy = RetryPolicy { quick_attempts: 1, ..RetryPolicy::default() };
        for number in 0..self.processes {
            let (runs, failing) = (Arc::clone(&runs), self.failing.clone());
            let run = move |event: Event| {
                let mut runs = runs.lock().unwrap();
                let tries: &mut u32 = runs.1.entry((number, event.operation)).or_default();
                *tries += 1;
                if *tries == 1 && failing.contains(&(number, event.operation)) {
                    return std::future::ready(failure("the first time"));
                }
                runs.0.push((number, event.operation));
                std::future::ready(success())
            };
            builder = builder.add_process_with(process(&number.to_string(), run), policy);
        }
        for (from, to, operations) in &self.links {
            let from = from.map_or_else(|| "in".to_owned(), |from| from.to_string());
            let filter = operations.clone();
            let filter = filter.map_or_else(Filter::default, |it| Filter::default().with_operations(it));
            builder = builder.add_filtered_link(from, to.to_string(), filter);
        }
        let running = start(builder.build().unwrap());
        let events: Vec<Event> = OPERATIONS
            .iter()
            .map(|operation| Event { operation: *operation, ..event(operation.as_str()) })
            .collect();
        let kept = Arc::new(Kept::default());
        let terms = |entry| Terms {
            parking: Some(Arc::clone(&kept) as Arc<dyn Parking>),
            entry,
            stored: Stored::default(),
            validity: None,
        };
        let entry = if stop_first { Entry::Isolated } else { Entry::Start };
        feed.deliver(Delivery::with_terms(events, terms(entry)));
        self.hand_out(&kept, &mut feed, &terms).await;
        running.stop().await.unwrap();
        let runs = runs.lock().unwrap();
        runs.0.clone()
    }

    /// Hands out what is stored, as an input does, until everything is settled and nothing is stored.
    async fn hand_out(&self, kept: &Kept, feed: &mut Feed, terms: &dyn Fn(Entry) -> Terms) {
        let mut out = 1;
        // Parked, by process and operation, until it is handled there.
        let mut parked: BTreeMap<(String, Operation), u32> = BTreeMap::new();
        let mut joined: Vec<Parcel> = Vec::new();
        let mut waiting: Vec<(String, Event, u32)> = Vec::new();
        let mut resumed: Option<(String, Operation)> = None;
        loop {
            let taken: Vec<Parcel> = kept.parcels.lock().unwrap().drain(..).collect();
            let none_new = taken.is_empty();
            for parcel in taken {
                let key = (parcel.process.clone(), parcel.event.operation);
                let tries = match &parcel.fate {
                    Fate::Retry { tries, .. } => *tries,
                    Fate::Untried { .. } => 0,
                    Fate::Joined { .. } => {
                        joined.push(parcel);
                        continue;
                    }
                    Fate::Dead { .. } => panic!("nothing fails so often: {parcel:?}"),
                };
                if resumed.as_ref() == Some(&key) {
                    resumed = None;
                }
                parked.insert(key, tries);
                waiting.push((parcel.process, parcel.event, tries));
                parcel.settle.stored();
            }
            if let Some(settled) = feed.settled_now() {
                assert!(settled.1, "an event was abandoned");
                out -= 1;
                if let Some(key) = resumed.take() {
                    parked.remove(&key);
                }
                continue;
            }
            let only_joined = none_new && out > 0 && !joined.is_empty();
            if only_joined || (out == 0 && !joined.is_empty()) {
                for parcel in joined.drain(..) {
                    let Fate::Joined { unless } = &parcel.fate else { unreachable!() };
                    let operation = parcel.event.operation;
                    let is_parked = |process: &String| {
                        let key = (process.clone(), operation);
                        parked.contains_key(&key) && resumed.as_ref() != Some(&key)
                    };
                    if !unless.iter().any(is_parked) {
                        parked.insert((parcel.process.clone(), operation), 0);
                        waiting.push((parcel.process.clone(), parcel.event.clone(), 0));
                    }
                    parcel.settle.stored();
                }
                continue;
            }
            if out == 0 {
                let Some((process, event, tries)) = waiting.pop() else { return };
                resumed = Some((process.clone(), event.operation));
                let entry = Entry::Resumed { process, tries: tries + 1, suspect: false };
                feed.deliver(Delivery::with_terms(vec![event], terms(entry)));
                out = 1;
                continue;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// The same for every seed: each process gets each event that the links bring to it once, after all that come before it and
/// get it, and no other; whatever is parked on the way.
#[tokio::test(start_paused = true)]
async fn each_process_gets_what_the_links_bring_to_it_and_nothing_else() {
    for seed in 0..2000 {
        let case = Case::new(&mut fastrand::Rng::with_seed(seed));
        let runs = soon(case.run(seed % 4 == 3)).await;
        let told = || format!("seed {seed}: {:?}, {:?}: {runs:?}", case.links, case.failing);
        for operation in OPERATIONS {
            let reached = case.reached(operation);
            let order: Vec<usize> = runs.iter().filter(|run| run.1 == operation).map(|run| run.0).collect();
            let once: BTreeSet<usize> = order.iter().copied().collect();
            assert_eq!((once.len(), &once), (order.len(), &reached), "{operation}, {}", told());
            for (from, to, _) in &case.links {
                let place = |process: usize| order.iter().position(|run| *run == process);
                if let Some((before, after)) = from.and_then(place).zip(place(*to)) {
                    assert!(before < after, "{operation}, {from:?} -> {to}, {}", told());
                }
            }
        }
    }
}
