//! The nesting guard: whether the calling thread belongs to a CPU lane.
//!
//! A job that waits for another job of its own lane holds a thread that the other one may need: with
//! few threads that is a deadlock. Code that is about to wait for a job asks here first.

use std::cell::RefCell;
use std::sync::Arc;

use crate::sync::thread_local;

thread_local! {
    static LANE: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
}

/// Marks the calling thread as one of the lane's, for as long as it lives.
pub(crate) fn enter(lane: &Arc<str>) {
    LANE.with(|mark| *mark.borrow_mut() = Some(lane.clone()));
}

/// True on the threads of this one lane: its name is one allocation, shared by nobody else.
pub(crate) fn is_inside(lane: &Arc<str>) -> bool {
    let same = |own: &Arc<str>| Arc::ptr_eq(own, lane);
    LANE.try_with(|mark| mark.borrow().as_ref().is_some_and(same))
        .unwrap_or(false)
}

/// The name of the CPU lane whose thread calls, threads of a wide job included.
///
/// ```
/// assert_eq!(offloop_lane_cpu::current_lane(), None);
/// ```
pub fn current_lane() -> Option<Arc<str>> {
    // A thread whose own storage is gone is on its way out: it runs no job.
    LANE.try_with(|mark| mark.borrow().clone()).ok().flatten()
}

/// True on a thread of any CPU lane: here, never wait for a job.
pub fn in_lane() -> bool {
    current_lane().is_some()
}
