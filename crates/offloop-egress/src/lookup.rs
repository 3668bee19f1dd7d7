//! Names looked up by the system, on threads that it may hold for as long as it likes.
//!
//! A look-up cannot be stopped, and names are what strangers give: one whose servers do not answer holds
//! its thread for half a minute. So there are two lines of few threads: one for names that were found
//! quickly the last time, one for all others. Names that hang fill their own line, and those that are
//! known go on.
//!
//! Must never: give up a place while its thread is still held.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::policy::{Resolve, Resolving};

/// Threads of each line.
const PLACES: usize = 3;
/// A name that takes longer is not known any more.
const QUICK: Duration = Duration::from_secs(1);
/// Names that are remembered; all are forgotten then, and known again with their next look-up.
const KNOWN_MAX: usize = 10_000;

type Lookup = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

struct Lines {
    known: Arc<Semaphore>,
    others: Arc<Semaphore>,
    quick: Mutex<HashSet<Box<str>>>,
    lookup: Box<Lookup>,
}

impl Lines {
    fn quick(&self) -> MutexGuard<'_, HashSet<Box<str>>> {
        self.quick.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_up(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let began = Instant::now();
        let found = (self.lookup)(name, port);
        let mut quick = self.quick();
        if found.is_ok() && began.elapsed() < QUICK {
            if quick.len() >= KNOWN_MAX {
                quick.clear();
            }
            quick.insert(name.into());
        } else {
            quick.remove(name);
        }
        found
    }
}

/// As the system does it. Cheap to clone; the clones share their threads.
#[derive(Clone)]
pub struct SystemResolver(Arc<Lines>);

impl std::fmt::Debug for SystemResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SystemResolver").finish_non_exhaustive()
    }
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self::by(|name, port| Ok((name, port).to_socket_addrs()?.collect()))
    }
}

impl SystemResolver {
    fn by(
        lookup: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Lines {
            known: Arc::new(Semaphore::new(PLACES)),
            others: Arc::new(Semaphore::new(PLACES)),
            quick: Mutex::default(),
            lookup: Box::new(lookup),
        }))
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> Resolving<'a> {
        let lines = Arc::clone(&self.0);
        Box::pin(async move {
            let known = lines.quick().contains(name);
            let line = if known { &lines.known } else { &lines.others };
            let place = Arc::clone(line).acquire_owned().await;
            let place = place.map_err(io::Error::other)?;
            let name: Box<str> = name.into();
            #[expect(
                clippy::disallowed_methods,
                reason = "the system has no other way, and the lines bound the threads"
            )]
            let found = tokio::task::spawn_blocking(move || {
                let found = lines.look_up(&name, port);
                drop(place); // not before: whoever asked may have gone long ago
                found
            });
            found.await.map_err(io::Error::other)?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn names_that_hang_do_not_hold_up_those_that_are_known() {
        let (begun, begins) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let released = Mutex::new(released);
        let found: SocketAddr = "192.0.2.1:443".parse().unwrap();
        let resolver = SystemResolver::by(move |name, _| {
            if name.starts_with("hangs") {
                begun.send(()).unwrap();
                let _ = released.lock().unwrap().recv(); // until the test is over
            }
            Ok(vec![found])
        });
        let known = resolver.resolve("known.example", 443).await;
        assert_eq!(known.unwrap(), [found]);
        let hanging = (0..20).map(|number| {
            let resolver = resolver.clone();
            tokio::spawn(async move {
                let name = format!("hangs{number}.example");
                resolver.resolve(&name, 443).await.map(drop)
            })
        });
        let hanging: Vec<_> = hanging.collect();
        tokio::task::block_in_place(|| {
            for _ in 0..PLACES {
                begins.recv_timeout(Duration::from_secs(20)).unwrap();
            }
        });
        // Callers that give up free no thread: their places stay taken.
        for task in &hanging[..10] {
            task.abort();
        }
        for _ in 0..10 {
            let known = resolver.resolve("known.example", 443).await;
            assert_eq!(known.unwrap(), [found]);
        }
        assert_eq!(resolver.0.others.available_permits(), 0);
        assert_eq!(resolver.0.known.available_permits(), PLACES);
        assert!(begins.try_recv().is_err(), "no more threads than places");
        drop(release);
        for task in hanging {
            let _ = task.await; // some were given up
        }
        assert!(resolver.0.quick().contains("known.example"));
    }

    #[tokio::test]
    async fn a_name_that_fails_is_not_known_any_more() {
        let fails = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let asked = Arc::clone(&fails);
        let resolver = SystemResolver::by(move |_, _| {
            if asked.load(std::sync::atomic::Ordering::SeqCst) {
                return Err(io::Error::other("no such name"));
            }
            Ok(vec![])
        });
        resolver.resolve("a.example", 443).await.unwrap();
        assert!(resolver.0.quick().contains("a.example"));
        fails.store(true, std::sync::atomic::Ordering::SeqCst);
        resolver.resolve("a.example", 443).await.unwrap_err();
        assert!(resolver.0.quick().is_empty());
    }
}
