//! The lab as a library: start it, fill it, order from it, ask it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::SystemTime;

use s3s::service::S3ServiceBuilder;

use crate::access::{Domain, Door, Keys};
use crate::content::Content;
use crate::control::Control;
use crate::fault::Faults;
use crate::gate::Gate;
use crate::ledger::Ledger;
use crate::server::Server;
use crate::service::Operations;
use crate::shape::Shape;
use crate::storage::{Attributes, Object, Storage, StorageError, Store};

/// Entries that the ledger keeps unless told otherwise: about 1.5 GiB if they are ever reached.
const LEDGER_ENTRIES_MAX: usize = 4 << 20;
/// Least size of every part but the last of a multipart upload, as S3 demands.
const PART_BYTES_MIN: u64 = 5 << 20;

/// Why the lab does not start.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// A thread or its runtime cannot be started.
    #[error("cannot start a thread of the lab: {source}")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
    /// The storage cannot be opened.
    #[error("cannot open the storage: {source}")]
    Storage {
        /// Why.
        #[from]
        source: StorageError,
    },
}

/// How a lab is to be.
#[derive(Clone, Debug)]
pub struct LabBuilder {
    address: String,
    control_address: String,
    credentials: (String, String),
    anonymous: bool,
    storage: Storage,
    region: String,
    domain: Option<String>,
    threads: usize,
    ledger_entries_max: usize,
    part_bytes_min: u64,
}

impl Default for LabBuilder {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:0".to_owned(),
            control_address: "127.0.0.1:0".to_owned(),
            credentials: ("tenderfs".to_owned(), "tenderfs-secret".to_owned()),
            anonymous: false,
            storage: Storage::Memory,
            region: "us-east-1".to_owned(),
            domain: None,
            threads: 2,
            ledger_entries_max: LEDGER_ENTRIES_MAX,
            part_bytes_min: PART_BYTES_MIN,
        }
    }
}

impl LabBuilder {
    /// Where S3 is served, `host:port`; port 0 chooses one. `127.0.0.1:0` unless set.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// Where control is served. `127.0.0.1:0` unless set. Whoever reaches it controls the lab.
    #[must_use]
    pub fn control_address(mut self, address: impl Into<String>) -> Self {
        self.control_address = address.into();
        self
    }

    /// The key pair that requests are signed with. `tenderfs` and `tenderfs-secret` unless set.
    #[must_use]
    pub fn credentials(
        mut self,
        access_key: impl Into<String>,
        secret_key: impl Into<String>,
    ) -> Self {
        self.credentials = (access_key.into(), secret_key.into());
        self
    }

    /// Lets in requests without a signature. A wrong signature is refused all the same.
    #[must_use]
    pub fn allow_anonymous(mut self) -> Self {
        self.anonymous = true;
        self
    }

    /// Where buckets are kept. In memory unless set.
    #[must_use]
    pub fn storage(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// The region that signatures must name; others are refused as S3 does, naming this one. Empty
    /// accepts any. `us-east-1` unless set.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = region.into();
        self
    }

    /// Serves virtual-host style as well: `bucket.domain`, such as `bucket.localhost`. Hosts that do not
    /// end so are path style. Path style only unless set.
    #[must_use]
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// Threads that serve; 2 unless set.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Entries that the ledger keeps; the oldest fall out. 4 Mi unless set.
    #[must_use]
    pub fn ledger_entries_max(mut self, entries: usize) -> Self {
        self.ledger_entries_max = entries;
        self
    }

    /// Least size of every part but the last of a multipart upload. 5 MiB, as S3 demands, unless set.
    #[must_use]
    pub fn part_bytes_min(mut self, bytes: u64) -> Self {
        self.part_bytes_min = bytes;
        self
    }

    /// Starts the lab.
    pub fn start(self) -> Result<Lab, LabError> {
        let store = Arc::new(Store::open(&self.storage)?);
        let (listener, address) = listen(&self.address)?;
        let (control_listener, control_address) = listen(&self.control_address)?;
        let keys = Keys::default();
        keys.add(&self.credentials.0, &self.credentials.1);

        let operations =
            Operations::new(Arc::clone(&store), self.region.clone(), self.part_bytes_min);
        let mut service = S3ServiceBuilder::new(operations);
        service.set_auth(keys.clone());
        service.set_access(Door { anonymous: self.anonymous });
        if let Some(domain) = &self.domain {
            service.set_host(Domain(domain.clone()));
        }
        let gate = Arc::new(Gate {
            s3: service.build(),
            ledger: Ledger::new(self.ledger_entries_max),
            faults: Faults::default(),
            pace: Arc::default(),
            region: self.region,
            domain: self.domain,
        });
        let control = Arc::new(Control {
            ledger: gate.ledger.clone(),
            faults: gate.faults.clone(),
            pace: Arc::clone(&gate.pace),
        });
        let server = Server::start(&gate, listener, (control, control_listener), self.threads)
            .map_err(|source| LabError::Thread { source })?;
        let credentials = self.credentials;
        Ok(Lab { server, gate, store, keys, credentials, address, control_address })
    }
}

/// A running S3 server. It stops when it is dropped.
pub struct Lab {
    /// Kept for its drop, which stops the threads.
    #[expect(dead_code, reason = "its drop stops the threads")]
    server: Server,
    gate: Arc<Gate>,
    store: Arc<Store>,
    keys: Keys,
    credentials: (String, String),
    address: SocketAddr,
    control_address: SocketAddr,
}

impl Lab {
    /// A lab to be made.
    pub fn builder() -> LabBuilder {
        LabBuilder::default()
    }

    /// `http://host:port` of S3.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `http://host:port` of the control endpoint.
    pub fn control_url(&self) -> String {
        format!("http://{}", self.control_address)
    }

    /// The socket address of S3.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The region that signatures must name.
    pub fn region(&self) -> &str {
        &self.gate.region
    }

    /// The access key it was started with.
    pub fn access_key(&self) -> &str {
        &self.credentials.0
    }

    /// The secret key it was started with.
    pub fn secret_key(&self) -> &str {
        &self.credentials.1
    }

    /// Takes requests signed with these keys too; a secret that was there for the key is replaced.
    pub fn add_credentials(&self, access_key: &str, secret_key: &str) {
        self.keys.add(access_key, secret_key);
    }

    /// Refuses this access key from now on; `false` if it was not known.
    pub fn remove_credentials(&self, access_key: &str) -> bool {
        self.keys.remove(access_key)
    }

    /// Makes a bucket.
    pub fn create_bucket(&self, name: &str) -> Result<(), StorageError> {
        self.store.create_bucket(name, SystemTime::now())
    }

    /// Puts an object past the wire and the ledger; returns its ETag as S3 gives it, quotes included.
    pub fn put(
        &self,
        bucket: &str,
        key: &str,
        content: impl Into<Content>,
    ) -> Result<String, StorageError> {
        self.put_with(bucket, key, content, Attributes::default())
    }

    /// As [`Self::put`], with attributes. In folder mode only the content is kept.
    pub fn put_with(
        &self,
        bucket: &str,
        key: &str,
        content: impl Into<Content>,
        attributes: Attributes,
    ) -> Result<String, StorageError> {
        let object = Object::new(content.into(), attributes, SystemTime::now());
        let object = self.store.put(bucket, key, object)?;
        Ok(format!("\"{}\"", object.etag))
    }

    /// Deletes an object; `false` if there was none.
    pub fn delete(&self, bucket: &str, key: &str) -> Result<bool, StorageError> {
        self.store.delete(bucket, key)
    }

    /// What an object holds.
    pub fn content(&self, bucket: &str, key: &str) -> Result<Content, StorageError> {
        Ok(self.store.object(bucket, key)?.content.clone())
    }

    /// Every request so far.
    pub fn ledger(&self) -> &Ledger {
        &self.gate.ledger
    }

    /// Puts this shape in force, for answers under way too.
    pub fn shape(&self, shape: Shape) {
        self.gate.pace.set_shape(shape);
    }

    /// The shape in force.
    pub fn shape_in_force(&self) -> Shape {
        self.gate.pace.shape()
    }

    /// The faults in force.
    pub fn faults(&self) -> &Faults {
        &self.gate.faults
    }
}

impl std::fmt::Debug for Lab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lab")
            .field("address", &self.address)
            .field("control_address", &self.control_address)
            .finish_non_exhaustive()
    }
}

fn listen(address: &str) -> Result<(TcpListener, SocketAddr), LabError> {
    let open = || {
        let listener = TcpListener::bind(address)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    open().map_err(|source| LabError::Listen { address: address.to_owned(), source })
}
