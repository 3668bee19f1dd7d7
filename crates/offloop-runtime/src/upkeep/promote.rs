//! Makes scheduled jobs ready when their time has come. The keeper times it, as claims depend on it.

use offloop_store::{Promoted, StoreError};

use crate::keeper::{Input, Keeper};
use crate::path::claim;

impl Keeper {
    pub(crate) fn promote(&mut self) {
        if self.promoting {
            return;
        }
        self.promoting = true;
        let call = self.shared.engine.promote(self.shared.clock.now());
        let inbox = self.shared.inbox.clone();
        tokio::task::spawn_local(async move {
            let _ = inbox.send(Input::Promoted(call.await));
        });
    }

    pub(crate) fn on_promoted(&mut self, answer: Result<Promoted, StoreError>) {
        self.promoting = false;
        match answer {
            Ok(promoted) => {
                self.next_due = promoted.next_due;
                if promoted.jobs > 0 {
                    claim::wake(&mut self.desks);
                }
            }
            Err(error) => self.store_failed("make scheduled jobs ready", &error),
        }
    }
}
