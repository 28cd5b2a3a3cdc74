//! Drops futures in the middle, at a place that does not depend on a clock.

use std::pin::pin;
use std::task::Poll;

/// Drops a future after this many polls, as if its process had been killed. `None` if the future was dropped; its
/// output if it ended earlier.
pub async fn dropped_after<F: Future>(polls: u32, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => {
            left = left.saturating_sub(1);
            if left == 0 { Poll::Ready(None) } else { Poll::Pending }
        }
    })
    .await
}
