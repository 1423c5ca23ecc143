//! Threads that own SQLite connections. Async code hands them closures and waits for the answer, so that no worker
//! thread ever waits for a disk.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::store::StoreError;

/// Closures that may wait for a thread; whoever comes later waits for room.
const QUEUE: usize = 64;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;
type Queue = Arc<Mutex<mpsc::Receiver<Job>>>;

/// One or more connections behind one queue.
pub(super) struct Actor {
    /// `None` only while dropping.
    jobs: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Actor {
    /// Starts `threads` threads named `name`, each with a connection from `open`.
    pub(super) async fn start(
        name: &str,
        threads: usize,
        open: impl Fn() -> Result<Connection, StoreError> + Clone + Send + 'static,
    ) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        let mut actor = Self { jobs: Some(jobs), threads: Vec::with_capacity(threads) };
        for _ in 0..threads {
            let (opened, answer) = oneshot::channel();
            let (open, queue) = (open.clone(), Arc::clone(&queue));
            let thread = thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || match open() {
                    Ok(connection) => {
                        // The receiver is gone when nobody waits for the start any more: then the queue is closed.
                        let _ = opened.send(Ok(()));
                        serve(connection, &queue);
                    }
                    Err(error) => {
                        let _ = opened.send(Err(error));
                    }
                })
                .map_err(|error| StoreError::Unavailable { message: error.to_string() })?;
            actor.threads.push(thread);
            answer.await.map_err(|_| ended())??;
        }
        Ok(actor)
    }

    /// Runs `work` on a connection. It runs to its end even if the caller stops waiting.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let _ = sender.send(work(connection));
        });
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        jobs.send(job).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

impl Drop for Actor {
    /// Waits for the jobs that were queued, so that the file is closed in order.
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Runs jobs until the queue is closed and empty.
fn serve(mut connection: Connection, queue: &Queue) {
    loop {
        // The lock is held while waiting, never while working: the next idle thread takes the next job.
        let job = queue.lock().blocking_recv();
        match job {
            Some(job) => job(&mut connection),
            None => break,
        }
    }
    // Refreshes the planner's statistics where they are stale. Read-only connections refuse; they need none.
    let _ = connection.execute_batch("PRAGMA optimize");
}

fn ended() -> StoreError {
    StoreError::Unavailable { message: "the database thread has ended".into() }
}
