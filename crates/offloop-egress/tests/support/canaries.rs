//! Servers inside that nobody may reach, and who came all the same. Shared by all who call URLs of others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// Bound of a wait for an event.
const SOON: Duration = Duration::from_secs(30);

/// Listeners on this machine, all on one port, that count who comes.
pub(crate) struct Canaries {
    pub(crate) port: u16,
    seen: Arc<AtomicUsize>,
}

impl Canaries {
    pub(crate) async fn start() -> Self {
        let seen = Arc::<AtomicUsize>::default();
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let mut all = vec![first];
        for other in ["127.0.0.2", "127.127.127.127", "[::1]"] {
            all.extend(TcpListener::bind(format!("{other}:{port}")).await);
        }
        for listener in all {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                while listener.accept().await.is_ok() {
                    seen.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { port, seen }
    }

    /// Nobody came; and whoever does is seen, which is the control of every test here.
    pub(crate) async fn saw_nobody(&self) {
        assert_eq!(
            self.seen.load(Ordering::SeqCst),
            0,
            "somebody was led inside"
        );
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await;
        let seen = async {
            while self.seen.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, seen).await.unwrap();
        drop(stream.unwrap());
    }
}
