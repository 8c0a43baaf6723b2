//! What parsing takes from the allocator: counted, so that it cannot grow unseen.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use dapper_payload::parse;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// Counts the calls of each thread, growing something included.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator can't be made otherwise")]
// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Fails when `work` allocates more than a tenth more often than it did when `committed` was written down; a committed
/// figure that has become much too high fails too, so that what was gained is kept.
fn check(committed: u64, work: impl FnOnce()) {
    let before = COUNT.get();
    work();
    let count = COUNT.get() - before;
    assert!(count * 10 <= committed * 11, "{count} allocations; {committed} are written down");
    assert!(count * 2 >= committed, "{count} allocations; write that down in place of {committed}");
}

#[test]
fn a_notification_takes_none() {
    let text = r#"{"tbl": "orders", "id": 42, "op": "INSERT"}"#;
    check(0, || {
        let payload = parse(text).unwrap();
        assert_eq!(payload.changes().map(|change| change.id().len()).sum::<usize>(), 2);
    });
}

#[test]
fn a_change_set_takes_a_few_whatever_its_size() {
    let one = r#"{"tbl":"orders","op":"INSERT","key":["id"],"ids":[42]}"#;
    check(3, || drop(parse(one).unwrap()));
    let ids: Vec<String> = (0..1_000).map(|id| id.to_string()).collect();
    let many = format!(r#"{{"tbl":"orders","op":"INSERT","key":["id"],"ids":[{}]}}"#, ids.join(","));
    check(11, || drop(parse(&many).unwrap()));
}

#[test]
fn a_change_takes_one_for_its_key_and_none_for_its_id() {
    let ids: Vec<String> = (0..1_000).map(|id| id.to_string()).collect();
    let text = format!(r#"{{"tbl":"orders","op":"INSERT","key":["id"],"ids":[{}]}}"#, ids.join(","));
    let payload = parse(&text).unwrap();
    check(1_000, || {
        for change in payload.changes() {
            assert!(!change.id().is_empty() && change.key_json().is_some());
        }
    });
}
