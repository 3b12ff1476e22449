//! The places where AWS tools look for credentials, in their order, each by its provider of
//! aws-config. What each said is kept, so that an error can name every place looked at.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::credentials::EnvironmentVariableCredentialsProvider;
use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::imds;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_types::region::Region;

use super::Keys;
use crate::addressing::REGION_DEFAULT;
use crate::error::{Error, causes};
use crate::private_file;

/// How long one place may take. SSO, STS and processes answer within seconds or not at all.
const PLACE_DEADLINE: Duration = Duration::from_secs(10);
/// How long one connection to the metadata service may take: it is one hop away or absent.
const IMDS_DEADLINE: Duration = Duration::from_secs(1);

/// The places to look at. They are made anew for each look, for some of them remember what they have
/// read.
pub(super) struct Chain {
    which: Which,
}

enum Which {
    /// All places, or only `profile`. `region` is that of the services asked on the way.
    All { profile: Option<String>, region: Option<String> },
    /// One file.
    File { path: PathBuf, profile: Option<String> },
}

struct Place {
    /// For messages.
    name: &'static str,
    /// What a user can look at there.
    where_: String,
    provider: SharedCredentialsProvider,
}

impl Place {
    fn new(
        name: &'static str,
        where_: impl Into<String>,
        provider: impl ProvideCredentials + 'static,
    ) -> Self {
        Self { name, where_: where_.into(), provider: SharedCredentialsProvider::new(provider) }
    }
}

impl Chain {
    /// All places, or only `profile`. `region` is that of the services asked on the way.
    pub(super) fn new(profile: Option<String>, region: Option<String>) -> Self {
        Self { which: Which::All { profile, region } }
    }

    /// The file at `path`, which only its owner may read, and in it `profile`.
    pub(super) fn of_file(path: PathBuf, profile: Option<String>) -> Self {
        Self { which: Which::File { path, profile } }
    }

    /// Whether all there is to look at is a file.
    pub(super) fn is_file(&self) -> bool {
        matches!(self.which, Which::File { .. })
    }

    async fn places(&self) -> Result<Vec<Place>, Error> {
        match &self.which {
            Which::All { profile, region } => Ok(places(profile.clone(), region.clone()).await),
            Which::File { path, profile } => file_place(path, profile.as_deref()),
        }
    }

    /// The keys of the first place that has any. A place that is set up but fails ends the search:
    /// other credentials than those meant must not be used by accident.
    pub(super) async fn keys(&self) -> Result<Keys, Error> {
        let mut looked_at = Vec::new();
        for place in self.places().await? {
            let asked = place.provider.provide_credentials();
            let answer = tokio::time::timeout(PLACE_DEADLINE, asked)
                .await
                .unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(PLACE_DEADLINE)));
            match answer {
                Ok(found) => return Ok(keys(&found, place.name)),
                Err(error) if is_absent(&error, &place) => {
                    looked_at.push(format!("{}: {}", place.where_, why(&error)));
                }
                Err(source) => {
                    return Err(Error::CredentialsFailed { provider: place.name, source });
                }
            }
        }
        Err(Error::CredentialsMissing { looked_at })
    }
}

/// The file at `path` as a place, if nobody else can read it.
fn file_place(path: &Path, profile: Option<&str>) -> Result<Vec<Place>, Error> {
    private_file::check(path).map_err(|reason| Error::CredentialsFailed {
        provider: FILE_PLACE,
        source: CredentialsError::invalid_configuration(reason),
    })?;
    let profile = profile.unwrap_or("default");
    let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, path).build();
    let config = ProviderConfig::without_region().with_region(None);
    let provider = ProfileFileCredentialsProvider::builder()
        .configure(&config)
        .profile_files(files)
        .profile_name(profile)
        .build();
    let where_ = format!("profile {profile:?} in {}", path.display());
    Ok(vec![Place::new(FILE_PLACE, where_, provider)])
}

const FILE_PLACE: &str = "credentials-file";

/// All places in their order, or only `profile`.
async fn places(profile: Option<String>, region: Option<String>) -> Vec<Place> {
    let config = config(profile.as_deref(), region).await;
    let files = ProfileFileCredentialsProvider::builder().configure(&config);
    if let Some(name) = profile {
        let place = format!("profile {name:?} in {PROFILE_FILES}");
        let provider = files.profile_name(name).build();
        return vec![Place::new("profile", place, provider)];
    }
    let imds = imds::Client::builder()
        .configure(&config)
        .connect_timeout(IMDS_DEADLINE)
        .read_timeout(IMDS_DEADLINE)
        .operation_timeout(2 * IMDS_DEADLINE)
        .operation_attempt_timeout(IMDS_DEADLINE)
        .max_attempts(2)
        .build();
    let imds = ImdsCredentialsProvider::builder().configure(&config).imds_client(imds).build();
    let web = WebIdentityTokenCredentialsProvider::builder().configure(&config).build();
    vec![
        Place::new(
            "environment",
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)",
            EnvironmentVariableCredentialsProvider::new(),
        ),
        Place::new(
            "profile",
            format!("profile (AWS_PROFILE, else default) in {PROFILE_FILES}"),
            files.build(),
        ),
        Place::new("web-identity", "web identity (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN)", web),
        Place::new(
            "ecs",
            "container (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, _FULL_URI)",
            EcsCredentialsProvider::builder().configure(&config).build(),
        ),
        Place::new("imds", "EC2 instance metadata (IMDSv2)", imds),
    ]
}

/// Where profiles are, unless the environment says otherwise.
const PROFILE_FILES: &str = "~/.aws/config (AWS_CONFIG_FILE) and ~/.aws/credentials \
                             (AWS_SHARED_CREDENTIALS_FILE)";

/// Whether `error` says that a place holds nothing. The metadata service is absent on most
/// machines, and what answers in its place on some is none.
fn is_absent(error: &CredentialsError, place: &Place) -> bool {
    matches!(error, CredentialsError::CredentialsNotLoaded(_)) || place.name == "imds"
}

/// The cause of `error` without the frame that says the same of every place.
fn why(error: &CredentialsError) -> String {
    std::error::Error::source(error).map_or_else(|| "nothing there".to_owned(), causes)
}

fn keys(found: &aws_credential_types::Credentials, provider: &'static str) -> Keys {
    let (id, secret) = (found.access_key_id(), found.secret_access_key());
    let signing = match found.session_token() {
        Some(token) => rusty_s3::Credentials::new_with_token(id, secret, token),
        None => rusty_s3::Credentials::new(id, secret),
    };
    Keys::new(Some(signing), found.expiry(), provider)
}

/// What the providers share. The region is looked up without the metadata service, which would
/// make every start on other machines wait.
async fn config(profile: Option<&str>, region: Option<String>) -> ProviderConfig {
    let mut files = ProfileFileRegionProvider::builder();
    if let Some(name) = profile {
        files = files.profile_name(name);
    }
    let region = RegionProviderChain::first_try(region.map(Region::new))
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(files.build())
        .or_else(Region::new(REGION_DEFAULT))
        .region()
        .await;
    ProviderConfig::without_region().with_region(region)
}
