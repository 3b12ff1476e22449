//! Who asks: credentials, where they come from, and how they stay fresh.
//!
//! Readers take the current keys without waiting; one task per [`Credentials`] renews them before
//! they expire, and sooner where the store says that they have: once, however many requests it tells.
//!
//! Invariant: nothing here prints a secret.

mod chain;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use crate::error::{Error, causes};
use crate::secret::Secret;
use chain::Chain;

/// How long before their expiry credentials are renewed.
const RENEW_BEFORE: Duration = Duration::from_mins(5);
/// The shortest time between two renewals, whatever expiry a provider claims.
const RENEW_PAUSE_MIN: Duration = Duration::from_secs(10);
/// How often a file is read again, whose keys may have been replaced at any time.
const FILE_PAUSE: Duration = Duration::from_mins(1);
/// The longest wait between failed renewals.
const FAILURE_PAUSE_MAX: Duration = Duration::from_mins(1);

/// Where credentials come from.
#[derive(Debug, Clone)]
pub enum CredentialSource {
    /// The places where AWS tools look: environment, profile, web identity, ECS, IMDS.
    Chain {
        /// The profile to use and nothing else; `None`: all places in that order.
        profile: Option<String>,
        /// The region of the services that hand out credentials (STS, SSO).
        region: Option<String>,
    },
    /// A file of its own, as AWS's credentials files are written, that nobody else can read.
    File {
        /// The file.
        path: PathBuf,
        /// The profile in it; `None`: `default`.
        profile: Option<String>,
    },
    /// These.
    Static {
        /// The public half.
        access_key_id: String,
        /// The secret half.
        secret_access_key: Secret,
        /// The token of temporary credentials.
        session_token: Option<Secret>,
    },
    /// None: requests are not signed.
    Anonymous,
}

/// Shared, refreshed credentials. `Debug` prints `***` for them.
#[derive(Clone)]
pub struct Credentials {
    shared: Arc<Shared>,
}

struct Shared {
    current: ArcSwap<Keys>,
    /// `None`: they never change.
    chain: Option<Chain>,
    /// Somebody was told by the store that the keys have expired.
    renewal_wanted: Notify,
    /// What has become of the renewals.
    renewals: watch::Sender<Renewals>,
    /// Whether anybody renews.
    kept_fresh: AtomicBool,
}

/// What has become of the renewals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Renewals {
    tried: u64,
    /// The last one brought nothing, and the next is some time away.
    is_failing: bool,
}

/// Keys and how long they last.
pub(crate) struct Keys {
    pub(crate) signing: Option<rusty_s3::Credentials>,
    expires: Option<SystemTime>,
    provider: &'static str,
    /// Whether the store has called them expired.
    refused: AtomicBool,
}

impl Keys {
    fn new(
        signing: Option<rusty_s3::Credentials>,
        expires: Option<SystemTime>,
        provider: &'static str,
    ) -> Self {
        Self { signing, expires, provider, refused: AtomicBool::new(false) }
    }

    /// Whether `other` would sign as these do.
    fn sign_as(&self, other: &Self) -> bool {
        let parts = |keys: &Self| {
            let keys = keys.signing.as_ref()?;
            let token = keys.token().map(str::to_owned);
            Some((keys.key().to_owned(), keys.secret().to_owned(), token))
        };
        parts(self) == parts(other)
    }
}

impl Credentials {
    /// Looks up credentials at `source`. Needs a tokio runtime with timers and sockets. Looking at
    /// every place takes a few seconds at most.
    pub async fn resolve(source: CredentialSource) -> Result<Self, Error> {
        match source {
            CredentialSource::Chain { profile, region } => {
                let chain = Chain::new(profile, region);
                let keys = chain.keys().await?;
                Ok(Self::with(keys, Some(chain)))
            }
            CredentialSource::File { path, profile } => {
                let chain = Chain::of_file(path, profile);
                let keys = chain.keys().await?;
                Ok(Self::with(keys, Some(chain)))
            }
            CredentialSource::Static { access_key_id, secret_access_key, session_token } => {
                let secret = secret_access_key.reveal();
                let signing = match &session_token {
                    Some(token) => {
                        rusty_s3::Credentials::new_with_token(access_key_id, secret, token.reveal())
                    }
                    None => rusty_s3::Credentials::new(access_key_id, secret),
                };
                let keys = Keys::new(Some(signing), None, "static");
                Ok(Self::with(keys, None))
            }
            CredentialSource::Anonymous => {
                let keys = Keys::new(None, None, "anonymous");
                Ok(Self::with(keys, None))
            }
        }
    }

    fn with(keys: Keys, chain: Option<Chain>) -> Self {
        let (renewals, _) = watch::channel(Renewals::default());
        let current = ArcSwap::from_pointee(keys);
        let renewal_wanted = Notify::new();
        let kept_fresh = AtomicBool::new(false);
        Self { shared: Arc::new(Shared { current, chain, renewal_wanted, renewals, kept_fresh }) }
    }

    /// Renews the credentials 5 minutes before they expire, and when the store says that they
    /// have; a file is read again every minute. Never returns. Failures are logged and tried again;
    /// the old credentials stay.
    pub async fn keep_fresh(self) {
        let Some(chain) = &self.shared.chain else {
            return std::future::pending().await;
        };
        self.shared.kept_fresh.store(true, Ordering::Release);
        let mut failures = 0;
        loop {
            let expires = self.shared.current.load().expires;
            let reread = chain.is_file().then_some(FILE_PAUSE);
            let pause = pause(SystemTime::now(), expires, failures).or(reread);
            self.wait(pause, failures).await;
            let outcome = chain.keys().await;
            let is_renewed = self.renew(outcome, failures);
            failures = if is_renewed { 0 } else { failures + 1 };
            self.shared.renewals.send_modify(|renewals| {
                renewals.tried += 1;
                renewals.is_failing = !is_renewed;
            });
        }
    }

    /// Takes what a renewal brought; whether the store may take it. Of the `failures` in a row only the
    /// first is worth a line of the log.
    fn renew(&self, outcome: Result<Keys, Error>, failures: u32) -> bool {
        let provider = self.provider();
        let reason = match outcome {
            Ok(keys) => {
                let current = self.shared.current.load_full();
                if !keys.sign_as(&current) {
                    tracing::debug!(provider = keys.provider, "credentials renewed");
                    self.shared.current.store(Arc::new(keys));
                    return true;
                }
                if !current.refused.load(Ordering::Acquire) {
                    // The same for longer.
                    self.shared.current.store(Arc::new(keys));
                    return true;
                }
                "the store refuses them, and there are no others".to_owned()
            }
            Err(error) => causes(&error),
        };
        if failures == 0 {
            tracing::warn!(
                provider,
                reason,
                "credentials could not be renewed: what is cached goes on being served, other reads \
                 fail with EACCES once they have expired; this is tried again"
            );
        } else {
            tracing::debug!(provider, reason, failures, "credentials could not be renewed");
        }
        false
    }

    /// Waits for `pause` (`None`: for ever) or until a renewal is wanted. After a failure only the
    /// pause counts, so that a store that refuses everything does not make us ask without end.
    async fn wait(&self, pause: Option<Duration>, failures: u32) {
        let paused = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        if failures > 0 {
            return paused.await;
        }
        let refused = async {
            // Who asked while the last renewal was under way was told of it.
            while !self.shared.current.load().refused.load(Ordering::Acquire) {
                self.shared.renewal_wanted.notified().await;
            }
        };
        tokio::select! {
            () = paused => {}
            () = refused => {}
        }
    }

    /// Asks [`Self::keep_fresh`] for other credentials than `keys` and waits for them, at most
    /// until the future is dropped; `false` if there are none: at once where they never change, or where
    /// the last renewal brought nothing.
    pub(crate) async fn renewed(&self, keys: &Arc<Keys>) -> bool {
        let shared = &self.shared;
        let is_current = || Arc::ptr_eq(keys, &shared.current.load());
        if shared.chain.is_none() || !shared.kept_fresh.load(Ordering::Acquire) {
            return false;
        }
        let mut renewals = shared.renewals.subscribe();
        keys.refused.store(true, Ordering::Release);
        while is_current() && !renewals.borrow_and_update().is_failing {
            shared.renewal_wanted.notify_one();
            if renewals.changed().await.is_err() {
                return false;
            }
        }
        !is_current()
    }

    /// The keys to sign with now.
    pub(crate) fn keys(&self) -> Arc<Keys> {
        self.shared.current.load_full()
    }

    /// Where the credentials came from, for messages.
    pub fn provider(&self) -> &'static str {
        self.shared.current.load().provider
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}: ***)", self.provider())
    }
}

/// How long to wait before the next renewal; `None`: credentials without an end are not renewed.
fn pause(now: SystemTime, expires: Option<SystemTime>, failures: u32) -> Option<Duration> {
    if failures > 0 {
        let doubled = Duration::from_secs(1).saturating_mul(1 << (failures - 1).min(16));
        return Some(doubled.min(FAILURE_PAUSE_MAX));
    }
    let left = expires?.duration_since(now).unwrap_or_default();
    // Some providers hand out credentials that are about to expire: renew those half way.
    let pause = left.checked_sub(RENEW_BEFORE).unwrap_or(left / 2);
    Some(pause.max(RENEW_PAUSE_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Proves W21 (credentials are renewed 5 minutes before they expire).
    #[test]
    fn credentials_are_renewed_five_minutes_before_they_expire() {
        let now = SystemTime::UNIX_EPOCH + seconds(1_000_000);
        for (left, expected) in [(3600, 3300), (310, 10), (301, 10), (240, 120), (15, 10), (0, 10)]
        {
            let expires = Some(now + seconds(left));
            assert_eq!(pause(now, expires, 0), Some(seconds(expected)), "{left} s left");
        }
        assert_eq!(pause(now, Some(now - seconds(5)), 0), Some(RENEW_PAUSE_MIN));
        assert_eq!(pause(now, None, 0), None);
    }

    #[test]
    fn failed_renewals_are_tried_again_ever_less_often() {
        let now = SystemTime::UNIX_EPOCH;
        let pauses: Vec<_> = (1..9).map(|n| pause(now, None, n).unwrap().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(now, None, u32::MAX), Some(FAILURE_PAUSE_MAX));
    }

    fn resolve(source: CredentialSource) -> Credentials {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(Credentials::resolve(source)).unwrap()
    }

    #[test]
    fn no_secret_is_ever_printed() {
        let source = CredentialSource::Static {
            access_key_id: "AKIDPUBLIC".into(),
            secret_access_key: Secret::new("hush-secret"),
            session_token: Some(Secret::new("hush-token")),
        };
        assert!(!format!("{source:?}").contains("hush"), "{source:?}");
        let credentials = resolve(source);
        let printed = format!("{credentials:?}");
        assert!(printed.contains("***") && !printed.contains("hush"), "{printed}");
        assert_eq!(credentials.provider(), "static");
        let keys = credentials.keys();
        assert_eq!(keys.signing.as_ref().unwrap().token(), Some("hush-token"));
    }

    #[test]
    fn anonymous_requests_have_no_keys() {
        let credentials = resolve(CredentialSource::Anonymous);
        assert!(credentials.keys().signing.is_none());
        assert_eq!(credentials.provider(), "anonymous");
    }

    #[test]
    fn credentials_that_never_change_are_not_waited_for() {
        let credentials = resolve(CredentialSource::Anonymous);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(!runtime.block_on(credentials.renewed(&credentials.keys())));
    }
}
