//! The handle's answers about schedules: orders go to the writer, screens to the readers.

use offloop_job::{JobId, ScheduleName, Timestamp};
use offloop_store::{
    Fired, Firing, LedgerAsk, LedgerPage, PutOutcome, PutSchedule, Reply, ScheduleRow,
    ScheduleStore,
};

use crate::calls::Command;
use crate::{SqliteStore, reader};

impl ScheduleStore for SqliteStore {
    fn put_schedule(&self, now: Timestamp, put: PutSchedule) -> Reply<PutOutcome> {
        self.call((now, put), Command::PutSchedule)
    }

    fn delete_schedule(
        &self,
        now: Timestamp,
        name: ScheduleName,
        actor: Box<str>,
    ) -> Reply<Option<ScheduleRow>> {
        self.call((now, name, actor), Command::DeleteSchedule)
    }

    fn schedule(&self, name: ScheduleName) -> Reply<Option<ScheduleRow>> {
        let read = move |conn: &_| reader::schedules::one(conn, &name);
        self.shared.readers.ask("read a schedule", read)
    }

    fn schedules(&self, after: Option<ScheduleName>, limit: u16) -> Reply<Vec<ScheduleRow>> {
        let read = move |conn: &_| reader::schedules::page(conn, after.as_ref(), limit);
        self.shared.readers.ask("list schedules", read)
    }

    fn fire(&self, now: Timestamp, firings: Vec<Firing>) -> Reply<Vec<Fired>> {
        self.call((now, firings), Command::Fire)
    }

    fn ledger(&self, ask: LedgerAsk) -> Reply<LedgerPage> {
        let read = move |conn: &_| reader::schedules::ledger(conn, &ask);
        self.shared.readers.ask("read a ledger", read)
    }

    fn live_jobs(&self, names: Vec<ScheduleName>) -> Reply<Vec<Vec<JobId>>> {
        self.call(names, Command::LiveJobs)
    }

    fn prune_ledger(&self, now: Timestamp) -> Reply<bool> {
        self.call(now, Command::PruneLedger)
    }
}
