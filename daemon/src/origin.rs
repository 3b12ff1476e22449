//! S3 as the cache's source of bytes, for one mount on one core.

use std::sync::Arc;

use tenderfs_byterange::ByteRange;
use tenderfs_cache::{Class, FillSink, Object, Pushed, Source, SourceError};
use tenderfs_s3client::{Client, Error as S3Error, GetRequest, Importance};

use crate::errno::kind_of;

/// Bytes that one fetch takes from its connection before others of its core have a turn: half a
/// millisecond at the pace of one core.
const YIELD_BYTES: usize = 1 << 20;

/// Fetches runs of blocks by ranged GETs.
#[derive(Clone)]
pub(crate) struct Origin {
    client: Client,
}

impl Origin {
    /// A source behind `client`.
    pub(crate) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// The client, for listings.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }
}

impl Source for Origin {
    async fn fetch(
        &self,
        object: &Arc<Object>,
        range: ByteRange,
        class: Class,
        sink: &mut FillSink,
    ) -> Result<(), SourceError> {
        let version = object.version();
        let request = GetRequest {
            key: &version.key,
            etag: &version.etag,
            range,
            object_size_bytes: version.size_bytes,
            importance: importance_of(class),
        };
        let mut body = self.client.get(request).await.map_err(|error| source_error(&error))?;
        // Bytes that can be compared are shown to nobody before they were.
        if body.has_checksum() && sink.room().len() as u64 == range.len_bytes() {
            let room = sink.room();
            let count = room.len();
            body.read_checked(room).await.map_err(|error| source_error(&error))?;
            sink.filled(count);
            return Ok(());
        }
        let mut unyielded_bytes = 0;
        while sink.missing_bytes() > 0 {
            let count = body.read(sink.room()).await.map_err(|error| source_error(&error))?;
            if count == 0 {
                break;
            }
            unyielded_bytes += count;
            // A fast store always has more to read, and who waits for these bytes may be on this
            // very core.
            if sink.filled(count) == Pushed::Awaited || unyielded_bytes >= YIELD_BYTES {
                tokio::task::yield_now().await;
                unyielded_bytes = 0;
            }
        }
        Ok(())
    }
}

/// Which failures are worth another try: a guess is not, and a warm job's fetch is, for nobody asks
/// again for what it could not get.
const fn importance_of(class: Class) -> Importance {
    match class {
        Class::Demand | Class::Background => Importance::Demand,
        Class::InFile | Class::Directory => Importance::Prefetch,
    }
}

/// What a failed GET means to those who wait for its bytes.
fn source_error(error: &S3Error) -> SourceError {
    SourceError::new(kind_of(error), crate::one_line(error))
}
