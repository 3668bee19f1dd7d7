//! JSON bodies of jobs, and their conversion both ways: the only serde of jobs.
//!
//! Doors read requests with [`JobReader`] and answer with the views; clients write [`JobBody`] and
//! read the same views. Names of fields are the public surface: they never change their meaning.
//!
//! Must never: know HTTP, a store's engine or the runtime; read the clock (`now` is an argument).

mod after;
mod bulk;
mod call;
mod flow;
mod group;
mod json;
mod limits;
mod log;
mod names;
mod options;
mod problem;
mod pulse;
mod read;
mod schedule;
mod sweep;
mod time;
mod unique;
mod usage;
mod view;
mod webhook;
mod work;

pub use bulk::{BulkErrors, BulkLine, BulkSummary, write_created_line, write_line};
pub use call::{CALL_FIELDS, CallBody, CallFacts, call_json, read_call};
pub use flow::{FLOW_FIELDS, FlowBody, GROUP_FIELDS, THEN_FIELDS, read_flow, read_group};
pub use group::{
    FlowJob, FlowView, GroupCounts, GroupList, GroupProgress, GroupView, InputRow, InputsView,
    MemberRow, ThenView,
};
pub use json::{DEPTH_MAX, raw_or_text};
pub use limits::{AuditList, AuditView, LIMIT_FIELDS, LimitList, LimitView, read_limit};
pub use options::{BackoffBody, JobBody, OptionsBody, UniqueBody};
pub use problem::{FieldProblem, Problem};
pub use pulse::{
    PulseBlocked, PulseCgroup, PulseDelay, PulseEnded, PulseFigures, PulseHint, PulseLane,
    PulseLoop, PulseMemory, PulseOwn, PulsePolls, PulsePressure, PulseStall, PulseStalls,
    PulseTask, PulseView,
};
pub use read::{BodyError, JOB_FIELDS, JobReader};
pub use schedule::{
    LedgerRowView, LedgerView, NextRow, NextView, SCHEDULE_FIELDS, ScheduleBody, ScheduleEventView,
    ScheduleList, ScheduleView, read_schedule,
};
pub use sweep::{SweepLine, job_body};
pub use time::{format_time, parse_since, parse_time, write_time};
pub use usage::{UsageRowView, UsageView};
pub use view::{
    AttemptView, EndView, EventView, JobList, JobScheduleView, JobView, LaneRow, NodeList, NodeRow,
    ProgressView, QueueCountsView, QueueList, QueueRow, SlotsView, StoreRow, TaskList, TaskRow,
    event_json, new_job_json,
};
pub use webhook::WebhookBody;
pub use work::{
    WORK_CLAIM_FIELDS, WORK_EXTEND_FIELDS, WORK_LEASES_MAX, WORK_LIMIT_MAX, WORK_LOG_BYTES_MAX,
    WORK_SETTLE_FIELDS, WORK_WAIT_DEFAULT, WORK_WAIT_MAX, WORK_WATCH_FIELDS, WorkClaim, WorkEnd,
    WorkExtend, WorkExtended, WorkGone, WorkNotice, WorkOffer, WorkOffers, WorkSettle, WorkSettled,
    WorkView, WorkWatch, WorkWatched, WorkWorker, read_work_claim, read_work_extend,
    read_work_settle, read_work_watch,
};

/// JSON Schemas of the bodies and views, as the `components.schemas` of OpenAPI 3.1.
pub const SCHEMAS: &str = include_str!("schemas.json");
