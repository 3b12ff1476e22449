//! A mount's bytes by way of the core threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::{BoxFuture, LocalBoxFuture};
use std::rc::Rc;
use tenderfs_cache::{Cache, ObjectVersion, Warmed};
use tenderfs_s3client::{ListPage, ListRequest, ListedObject};
use tokio::sync::oneshot;

use super::{Fault, Store};
use crate::cores::{Core, CoreHandle};
use crate::mount::Mount;

/// The store of one mount. Work goes to the cores in turn.
pub struct CoreStore {
    mount: Arc<Mount>,
    cache: Cache,
    has_disk: bool,
    cores: Vec<CoreHandle>,
    next: AtomicUsize,
}

/// The core that had the work has stopped.
#[derive(Debug, thiserror::Error)]
#[error("the daemon is stopping")]
struct CoreStopped;

impl CoreStore {
    /// The store of `mount` on `cores`, which are not none.
    pub fn new(mount: Arc<Mount>, cache: Cache, has_disk: bool, cores: Vec<CoreHandle>) -> Self {
        Self { mount, cache, has_disk, cores, next: AtomicUsize::new(0) }
    }

    /// Runs `task` on the next core. If the future is dropped, so is the task.
    fn on_a_core<T, F>(&self, task: F) -> BoxFuture<'static, Result<T, Fault>>
    where
        T: Send + 'static,
        F: FnOnce(Rc<Core>) -> LocalBoxFuture<'static, Result<T, Fault>> + Send + 'static,
    {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.cores.len().max(1);
        let (mut sender, answer) = oneshot::channel();
        if let Some(core) = self.cores.get(index) {
            core.spawn(move |core| {
                Box::pin(async move {
                    tokio::select! {
                        result = task(core) => drop(sender.send(result)),
                        () = sender.closed() => {}
                    }
                })
            });
        }
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(CoreStopped.into())) })
    }
}

impl Store for CoreStore {
    fn list(&self, request: ListRequest) -> BoxFuture<'static, Result<ListPage, Fault>> {
        let mount = Arc::clone(&self.mount);
        self.on_a_core(move |core| {
            Box::pin(async move { Ok(core.list_files(&mount, &request).await?) })
        })
    }

    fn warm(&self, file: ListedObject) -> BoxFuture<'static, Result<Warmed, Fault>> {
        let mount = Arc::clone(&self.mount);
        self.on_a_core(move |core| {
            Box::pin(async move { Ok(core.warm_object(&mount, &file).await?) })
        })
    }

    fn cached_bytes(&self, file: &ListedObject) -> u64 {
        let object = self.cache.object(ObjectVersion {
            store: Arc::clone(&self.mount.store),
            key: file.key.as_str().into(),
            etag: file.etag.as_str().into(),
            size_bytes: file.size_bytes,
        });
        let cached = object.cached_bytes();
        if self.has_disk { cached.disk_bytes } else { cached.memory_bytes }
    }
}
