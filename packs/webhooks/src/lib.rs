//! Webhooks: others are told how jobs ended.
//!
//! A delivery is a job of its own (`webhook.deliver`), taken in by the very commit that ends the job it
//! tells of: none is lost and none is made up. It is signed after Standard Webhooks, tried again for days,
//! and never connects inside (docs/adr/0024).
//!
//! Must never: hold up a job for its receiver, follow a redirect, or show a secret or a whole URL.

mod deliver;
mod event;
mod health;
mod pack;
mod routes;
mod secrets;
mod send;

pub use pack::{QUEUE, TASK, WebhooksOptions, WebhooksPack};
pub use secrets::{Secrets, SecretsError};
