//! Who may ask: keys, anonymous requests, and buckets named by the host.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::host::{S3Host, VirtualHost};
use s3s::{S3Result, s3_error};

use crate::request::strip_domain;

/// Access keys and their secrets. Clones are the same keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys(Arc<RwLock<HashMap<String, SecretKey>>>);

impl Keys {
    pub(crate) fn add(&self, access_key: &str, secret_key: &str) {
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        keys.insert(access_key.to_owned(), SecretKey::from(secret_key));
    }

    pub(crate) fn remove(&self, access_key: &str) -> bool {
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        keys.remove(access_key).is_some()
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let message = "The AWS Access Key Id you provided does not exist in our records.";
        keys.get(access_key).cloned().ok_or_else(|| s3_error!(InvalidAccessKeyId, "{message}"))
    }
}

/// Whether requests without a signature are let in.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) anonymous: bool,
}

#[async_trait::async_trait]
impl S3Access for Door {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        match context.credentials() {
            Some(_) => Ok(()),
            None if self.anonymous => Ok(()),
            None => Err(s3_error!(AccessDenied, "Access Denied")),
        }
    }
}

/// Buckets named by the host: `bucket.domain`.
#[derive(Debug)]
pub(crate) struct Domain(pub(crate) String);

impl S3Host for Domain {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let plain = VirtualHost::new(self.0.as_str());
        Ok(match strip_domain(host, &self.0) {
            Some(bucket) => plain.with_bucket(bucket),
            None => plain,
        })
    }
}
