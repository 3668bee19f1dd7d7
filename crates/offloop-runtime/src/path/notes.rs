//! Brings the last notes of running jobs to the store. Beside the path, between dispatch and settle.
//!
//! Must never: keep a claim or a settlement waiting. Of several notes of one attempt the last counts.

use offloop_job::{EventKind, Timestamp};

use crate::keeper::{Input, Keeper};

impl Keeper {
    pub(crate) fn note(&mut self, now: Timestamp) {
        if self.noting || self.notes.is_empty() {
            return;
        }
        self.noting = true;
        let notes: Vec<_> = self.notes.drain().map(|(_, note)| note).collect();
        for note in &notes {
            self.tell(note.lease, EventKind::Progress, now);
        }
        let call = self.shared.engine.note_progress(now, notes);
        let inbox = self.shared.inbox.clone();
        tokio::task::spawn_local(async move {
            let _ = inbox.send(Input::Noted(call.await));
        });
    }
}
