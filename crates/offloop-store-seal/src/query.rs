//! What screens ask: opened.

use std::sync::Arc;

use offloop_job::{Collection, Job, JobId, Mode, RecordKey, TaskName, Timestamp};
use offloop_store::{
    JobPage, JobQuery, LabelCount, LineStatus, ListRequest, QueueStatus, Record, RecordPage,
    RecordScan, Reply, UsageAsk, UsageSums,
};

use crate::engine::SealedStore;

impl JobQuery for SealedStore {
    fn job(&self, id: JobId) -> Reply<Option<Job>> {
        let (job, seals) = (self.inner.job(id), Arc::clone(&self.seals));
        Box::pin(async move {
            let mut job = job.await?;
            if let Some(job) = &mut job {
                seals.whole(job);
            }
            Ok(job)
        })
    }

    fn jobs(&self, ask: ListRequest) -> Reply<JobPage> {
        let (page, seals) = (self.inner.jobs(ask), Arc::clone(&self.seals));
        Box::pin(async move {
            let mut page = page.await?;
            for job in &mut page.jobs {
                seals.summary(job);
            }
            Ok(page)
        })
    }

    fn queues(&self, now: Timestamp) -> Reply<Vec<QueueStatus>> {
        self.inner.queues(now)
    }

    fn task_modes(&self) -> Reply<Vec<(TaskName, Mode)>> {
        self.inner.task_modes()
    }

    fn backlog(&self) -> Reply<Vec<LineStatus>> {
        self.inner.backlog()
    }

    fn record(&self, collection: Collection, key: RecordKey) -> Reply<Option<Record>> {
        self.inner.record(collection, key)
    }

    fn records(&self, scan: RecordScan) -> Reply<RecordPage> {
        self.inner.records(scan)
    }

    fn record_counts(&self, collection: Collection) -> Reply<Vec<LabelCount>> {
        self.inner.record_counts(collection)
    }

    fn usage(&self, ask: UsageAsk) -> Reply<UsageSums> {
        self.inner.usage(ask)
    }
}
