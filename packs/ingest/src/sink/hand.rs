//! A thread of one's own for what blocks: files and SQLite. Asked from async code, one thing at a time.
//!
//! Must never: be asked from its own thread; grow a queue (askers wait).

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

type Deed<S> = Box<dyn FnOnce(&mut S) + Send>;

/// Owns an `S` on a thread. When the last hand of it is dropped, `S` is too, and the thread has
/// ended: files are closed, locks are free. That waits for the deed under way.
#[derive(Debug)]
pub struct Hand<S> {
    /// Declared first: closed before `thread` waits.
    deeds: mpsc::Sender<Deed<S>>,
    thread: Arc<Thread>,
}

impl<S> Clone for Hand<S> {
    fn clone(&self) -> Self {
        Self {
            deeds: self.deeds.clone(),
            thread: Arc::clone(&self.thread),
        }
    }
}

#[derive(Debug)]
struct Thread(Option<JoinHandle<()>>);

impl Drop for Thread {
    fn drop(&mut self) {
        // A deed may hold the last hand: it ends by itself.
        if let Some(thread) = self.0.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _panicked = thread.join();
        }
    }
}

/// The thread is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl<S: Send + 'static> Hand<S> {
    /// Begins a thread `name` (15 bytes of it are shown by the system).
    pub fn new(name: &str, mut state: S) -> std::io::Result<Self> {
        let (deeds, mut asked) = mpsc::channel::<Deed<S>>(1);
        let running = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Some(deed) = asked.blocking_recv() {
                    deed(&mut state);
                }
            })?;
        Ok(Self {
            deeds,
            thread: Arc::new(Thread(Some(running))),
        })
    }

    /// Does `deed` there and hands back what it returns. If the asker is dropped, a deed that was
    /// handed over is still done.
    pub async fn ask<T, F>(&self, deed: F) -> Result<T, Gone>
    where
        T: Send + 'static,
        F: FnOnce(&mut S) -> T + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let deed: Deed<S> = Box::new(move |state| {
            // An asker who left wants no answer.
            let _left = tell.send(deed(state));
        });
        self.deeds.send(deed).await.map_err(|_| Gone)?;
        told.await.map_err(|_| Gone)
    }
}
