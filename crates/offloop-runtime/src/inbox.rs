//! Where one lane sends its news: to the keeper, and what is for listeners alone to them.
//!
//! Must never: block a lane, or keep what nobody asked for.

use offloop_lane::{LaneEvent, LaneSink};
use tokio::sync::mpsc::UnboundedSender;

use crate::keeper::Input;

#[derive(Debug)]
pub(crate) struct LaneInbox {
    pub(crate) lane: usize,
    pub(crate) inbox: UnboundedSender<Input>,
}

impl LaneSink for LaneInbox {
    fn send(&self, event: LaneEvent) {
        let _ = self.inbox.send(Input::Lane {
            lane: self.lane,
            event,
        }); // the keeper has ended
    }
}
