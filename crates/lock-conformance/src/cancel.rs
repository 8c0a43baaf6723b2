//! Futures that are given up after an exact number of polls.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::sleep;

/// Polls `future` at most `polls` times; its output when it finished. Between the polls it waits to be woken, as a
/// runtime does.
pub(crate) async fn poll<F: Future + ?Sized>(mut future: Pin<&mut F>, polls: usize) -> Option<F::Output> {
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// As [`poll`], then keeps the future for `linger` without polling it, and drops it.
pub(crate) async fn cancel_after<F: Future>(future: F, polls: usize, linger: Duration) -> Option<F::Output> {
    let mut future = pin!(future);
    let output = poll(future.as_mut(), polls).await;
    if output.is_none() && !linger.is_zero() {
        sleep(linger).await;
    }
    output
}
