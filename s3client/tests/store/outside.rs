//! A bucket that the environment names, for a store that is not the lab.

use tenderfs_s3client::ListRequest;

use super::*;

/// What the environment says; the crate itself never reads it.
#[allow(clippy::disallowed_methods, reason = "the test is told the bucket by its environment")]
fn told(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Proves V21. Needs `TENDERFS_TEST_BUCKET` and credentials where AWS tools look for them;
/// `TENDERFS_TEST_ENDPOINT_URL`, `TENDERFS_TEST_REGION` and `TENDERFS_TEST_PREFIX` are optional. It
/// reads only.
#[test]
#[allow(clippy::print_stderr, reason = "a test that does nothing must say so")]
fn a_bucket_that_the_environment_names_is_listed_and_read() {
    let Some(name) = told("TENDERFS_TEST_BUCKET") else {
        eprintln!("skipped: TENDERFS_TEST_BUCKET does not name a bucket");
        return;
    };
    run(async {
        let region = told("TENDERFS_TEST_REGION");
        let source = CredentialSource::Chain { profile: None, region: region.clone() };
        let credentials = Credentials::resolve(source).await.unwrap();
        let endpoint_url = told("TENDERFS_TEST_ENDPOINT_URL").map(|url| url.parse().unwrap());
        let mut config = BucketConfig { name, region, endpoint_url, ..config("http://unused") };
        config.deadlines.connect = ms(10_000);
        config.deadlines.first_byte = ms(10_000);
        config.deadlines.stall = ms(10_000);
        config.deadlines.whole = ms(120_000);
        let client = Client::new(Bucket::new(config, credentials).unwrap());
        let prefix = told("TENDERFS_TEST_PREFIX").unwrap_or_default();
        client.probe(&prefix).await.unwrap();
        let request = ListRequest { prefix, keys_max: Some(20), ..ListRequest::default() };
        let page = client.list(&request).await.unwrap();
        for listed in page.objects {
            let head = described(&client, &listed.key).await;
            assert_eq!((&head.etag, head.size_bytes), (&listed.etag, listed.size_bytes));
            if head.size_bytes == 0 {
                continue;
            }
            let size = head.size_bytes.min(8 << 20);
            let whole = read(&client, &head, (0, size)).await.unwrap();
            assert_eq!(whole.len() as u64, size);
            let half = size / 2;
            let tail = read(&client, &head, (half, size)).await.unwrap();
            assert!(whole.ends_with(&tail), "{}", listed.key);
        }
    });
}
