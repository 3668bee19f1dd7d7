//! Where one lane sends its news: to the keeper, and to those who listen to a job what they want.
//!
//! Output and partial results go past the keeper: they are many, nothing depends on them, and its inbox
//! has no bound. Must never: block a lane, or keep what nobody asked for.

use std::sync::Arc;

use offloop_job::JobId;
use offloop_lane::{LaneEvent, LaneSink};
use tokio::sync::mpsc::UnboundedSender;

use crate::clock::Clock;
use crate::feed::{Feeds, JobNews};
use crate::keeper::Input;

#[derive(Debug)]
pub(crate) struct LaneInbox {
    pub(crate) lane: usize,
    pub(crate) inbox: UnboundedSender<Input>,
    pub(crate) feeds: Arc<Feeds>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl LaneSink for LaneInbox {
    fn send(&self, event: LaneEvent) {
        let at = || self.clock.now();
        match event {
            LaneEvent::Log { job, data, .. } => {
                let news = || JobNews::Log { at: at(), data };
                self.feeds.tell(job, news);
                return;
            }
            LaneEvent::Partial { job, data, .. } => {
                let news = || JobNews::Partial { at: at(), data };
                self.feeds.tell(job, news);
                return;
            }
            LaneEvent::Progress { job, ref note, .. } => {
                let news = || JobNews::Progress {
                    at: at(),
                    note: note.clone(),
                };
                self.feeds.tell(job, news);
            }
            _ => {}
        }
        let _ = self.inbox.send(Input::Lane {
            lane: self.lane,
            event,
        }); // the keeper has ended
    }

    fn listens(&self, job: JobId) -> bool {
        self.feeds.listens(job)
    }
}
