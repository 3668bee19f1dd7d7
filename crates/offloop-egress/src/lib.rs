//! Where the server may connect to when somebody else says where: webhooks, fetched pages.
//!
//! A URL from outside may lead back inside: to this machine, to the network behind it, to the address
//! where a cloud gives out its credentials. So the way is one, in this order: [`Policy::target`]
//! parses (once, and what is parsed is what is connected to) and checks scheme, port and form;
//! [`Policy::addresses`] resolves and checks every address; [`Policy::connect`] connects to one of
//! just these. A name is never looked up again in between, so it cannot change its answer.
//! [`Connector`] is that way with TLS at its end: what everybody who speaks HTTP starts from.
//!
//! Must never: follow a redirect, read a proxy from the environment, or connect to an address that
//! was not checked.

mod address;
mod connector;
mod lookup;
mod policy;
mod roots;
mod target;

pub use address::{Forbidden, Net, NetError};
pub use connector::{Connector, Stream};
pub use lookup::SystemResolver;
pub use policy::{EgressError, Policy, Resolve, Resolving};
pub use roots::{PEM_BYTES_MAX, Roots, RootsError, TlsSetupError};
pub use target::{Host, Target, URL_BYTES_MAX};
