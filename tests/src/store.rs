//! The S3 store behind a stage: the lab, or one that runs elsewhere and is named by environment
//! variables (tests/garage.sh sets them).

use std::time::Duration;

use bytes::Bytes;
use reqwest::Client;
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use tenderfs_lab::Lab;
use tokio::runtime::Builder;
use url::Url;

/// How long a signature of a request to an external store is valid.
const SIGNED_FOR: Duration = Duration::from_mins(1);

/// Where the objects of a stage are.
pub enum Store {
    /// A server in this process, with faults to order and a ledger.
    Lab(Lab),
    /// A server somewhere else.
    External(External),
}

/// A bucket of a store that these tests did not start. It is emptied by nobody: every stage puts
/// its objects under a prefix of its own and removes them at the end.
#[derive(Debug, Clone)]
pub struct External {
    /// Such as `http://127.0.0.1:3900`.
    pub endpoint: String,
    /// The store's region.
    pub region: String,
    /// A bucket in which objects may be written and deleted.
    pub bucket: String,
    /// The access key id.
    pub access_key: String,
    /// The secret access key.
    pub secret_key: String,
}

impl External {
    /// The store that `TENDERFS_TEST_ENDPOINT`, `_REGION`, `_BUCKET`, `_ACCESS_KEY_ID` and
    /// `_SECRET_ACCESS_KEY` name; `None` if there is no endpoint.
    #[allow(clippy::disallowed_methods, reason = "how a person hands a store to these tests")]
    pub fn from_environment() -> Option<Self> {
        let named = |name: &str| std::env::var(format!("TENDERFS_TEST_{name}")).ok();
        let must = |name: &str| {
            named(name).unwrap_or_else(|| {
                panic!("TENDERFS_TEST_ENDPOINT is set, so TENDERFS_TEST_{name} must be set too")
            })
        };
        Some(Self {
            endpoint: named("ENDPOINT")?,
            region: must("REGION"),
            bucket: must("BUCKET"),
            access_key: must("ACCESS_KEY_ID"),
            secret_key: must("SECRET_ACCESS_KEY"),
        })
    }

    /// Puts an object by a signed PUT.
    pub fn put(&self, key: &str, bytes: &Bytes) {
        let (bucket, credentials) = self.signer();
        let url = bucket.put_object(Some(&credentials), key).sign(SIGNED_FOR);
        let status = send(&|client| client.put(url.clone()).body(bytes.clone()));
        assert_eq!(status, 200, "PUT of {key} at {}", self.endpoint);
    }

    /// Deletes an object by a signed DELETE; one that is not there counts as deleted.
    pub fn delete(&self, key: &str) {
        let (bucket, credentials) = self.signer();
        let url = bucket.delete_object(Some(&credentials), key).sign(SIGNED_FOR);
        let status = send(&|client| client.delete(url.clone()));
        assert!([200, 204, 404].contains(&status), "DELETE of {key}: {status}");
    }

    fn signer(&self) -> (Bucket, Credentials) {
        let endpoint = Url::parse(&self.endpoint).expect("TENDERFS_TEST_ENDPOINT is a URL");
        let bucket =
            Bucket::new(endpoint, UrlStyle::Path, self.bucket.clone(), self.region.clone())
                .expect("an endpoint and a bucket that make a URL");
        (bucket, Credentials::new(&*self.access_key, &*self.secret_key))
    }
}

/// Sends one request on a connection of its own and returns the status.
fn send(request: &dyn Fn(&Client) -> reqwest::RequestBuilder) -> u16 {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let response = request(&Client::new()).send().await.expect("the store answers");
        response.status().as_u16()
    })
}
