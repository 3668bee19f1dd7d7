//! Addresses of names, remembered for seconds: a thousand calls to one host ask for it once.
//!
//! What is remembered is only what a name answered. Whether an address may be connected to is decided
//! by the caller, at each connection.
//!
//! Must never: remember an error, or hold more than its bound.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use offloop::egress::{Resolve, Resolving};

use crate::host::lock;

/// As long as a name's answer is believed. Short: who moves a service should not wait for us.
const KEEP: Duration = Duration::from_secs(5);
const NAMES_MAX: usize = 4_096;

type Key = (Box<str>, u16);
type Found = Option<(Instant, Vec<SocketAddr>)>;
/// Whoever looks holds the lock; the others wait and find the answer.
type Entry = Arc<tokio::sync::Mutex<Found>>;

/// A resolver around another.
#[derive(Debug)]
pub(crate) struct Remembering {
    inner: Arc<dyn Resolve>,
    names: Mutex<HashMap<Key, Entry>>,
}

impl Remembering {
    pub(crate) fn new(inner: Arc<dyn Resolve>) -> Self {
        Self {
            inner,
            names: Mutex::default(),
        }
    }

    fn entry(&self, key: Key) -> Entry {
        let mut names = lock(&self.names);
        if names.len() >= NAMES_MAX && !names.contains_key(&key) {
            // Those that nobody waits for.
            names.retain(|_, entry| Arc::strong_count(entry) > 1);
        }
        Arc::clone(names.entry(key).or_default())
    }

    async fn find(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let entry = self.entry((name.into(), port));
        let mut found = entry.lock().await;
        if let Some((at, addresses)) = &*found
            && at.elapsed() < KEEP
        {
            return Ok(addresses.clone());
        }
        let addresses = self.inner.resolve(name, port).await?;
        *found = Some((Instant::now(), addresses.clone()));
        Ok(addresses)
    }
}

impl Resolve for Remembering {
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> Resolving<'a> {
        Box::pin(self.find(name, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Debug, Default)]
    struct Counting(AtomicUsize);

    impl Resolve for Counting {
        fn resolve<'a>(&'a self, name: &'a str, port: u16) -> Resolving<'a> {
            let turn = self.0.fetch_add(1, Ordering::SeqCst);
            let fails = name == "fails.example";
            Box::pin(async move {
                tokio::task::yield_now().await;
                if fails {
                    return Err(io::Error::other("no"));
                }
                Ok(vec![SocketAddr::from(([93, 184, 216, turn as u8], port))])
            })
        }
    }

    #[tokio::test]
    async fn a_crowd_of_calls_does_not_ask_for_the_same_name_a_thousand_times() {
        let inner = Arc::new(Counting::default());
        let names = Remembering::new(inner.clone());
        let asks = (0..1_000).map(|_| names.resolve("one.example", 443));
        let found = futures_util::future::join_all(asks).await;
        assert!(found.iter().all(|found| found.as_ref().unwrap().len() == 1));
        assert_eq!(inner.0.load(Ordering::SeqCst), 1);
        names.resolve("one.example", 80).await.unwrap();
        assert_eq!(inner.0.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_lookup_that_failed_is_not_believed_for_the_next_call() {
        let inner = Arc::new(Counting::default());
        let names = Remembering::new(inner.clone());
        for turn in 1..=3 {
            assert!(names.resolve("fails.example", 443).await.is_err());
            assert_eq!(inner.0.load(Ordering::SeqCst), turn);
        }
    }

    #[tokio::test]
    async fn memory_is_bounded_however_many_names_are_asked_for() {
        let names = Remembering::new(Arc::new(Counting::default()));
        for turn in 0..NAMES_MAX * 2 {
            names
                .resolve(&format!("n{turn}.example"), 443)
                .await
                .unwrap();
        }
        assert!(lock(&names.names).len() <= NAMES_MAX);
    }
}
