//! What goes with each request beside its signature: who must own the bucket, and the customer's key.

use std::os::unix::fs::PermissionsExt as _;

use tenderfs_lab::HttpFake;
use tenderfs_s3client::CustomerKey;

use super::*;

#[test]
fn an_account_that_cannot_be_is_refused_and_one_that_can_be_is_sent() {
    let lab = lab();
    run(async {
        let config =
            BucketConfig { expected_owner: Some("12345".into()), ..config(&lab.endpoint()) };
        let credentials = keys(lab.access_key(), lab.secret_key()).await;
        let error = Bucket::new(config.clone(), credentials).unwrap_err().to_string();
        assert!(error.contains("12 digits"), "{error}");
        // The lab checks the signature, of which the header is a part.
        let config = BucketConfig { expected_owner: Some("123456789012".into()), ..config };
        let client = client_of(&lab, config).await;
        let object = described(&client, KEY).await;
        check_bytes(&lab, KEY, 0, &read(&client, &object, (0, 1000)).await.unwrap());
    });
}

#[test]
fn a_customers_key_is_told_with_every_read_and_never_without_tls() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, [7; 32]).unwrap();
    let set_mode = |mode| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set_mode(0o644);
    let error = CustomerKey::read(&file).unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
    set_mode(0o600);
    let key = CustomerKey::read(&file).unwrap();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let saw = std::sync::Arc::clone(&seen);
    let store = HttpFake::start(move |request| {
        saw.lock().unwrap().push(request.clone());
        (404, String::new())
    });
    let store = store.unwrap();
    run(async {
        let customer_key = Some(key.clone());
        let here = BucketConfig { customer_key, ..config(&store.url()) };
        let client = Client::new(Bucket::new(here.clone(), keys("AKID", "secret").await).unwrap());
        drop(client.head("a", Importance::Demand).await);
        let elsewhere =
            BucketConfig { endpoint_url: Some("http://store.example".parse().unwrap()), ..here };
        let error = Bucket::new(elsewhere, keys("AKID", "secret").await).unwrap_err().to_string();
        assert!(error.contains("never sent without TLS"), "{error}");
    });
    let seen = seen.lock().unwrap();
    let prefix = "x-amz-server-side-encryption-customer-";
    let header = |name: &str| seen[0].header(&format!("{prefix}{name}")).unwrap().to_owned();
    assert_eq!(header("algorithm"), "AES256");
    assert_eq!(header("key"), "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=");
    assert_eq!(header("key-md5"), "y4HAEFCYWuvAXWFTtA1Qpg==");
    assert!(seen[0].path.contains("customer-key-md5"), "it is not signed: {}", seen[0].path);
}

#[test]
fn a_region_is_learned_from_the_answer_to_a_head_too() {
    let lab = Lab::builder().region("eu-west-1").start().unwrap();
    lab.create_bucket(BUCKET).unwrap();
    lab.put(BUCKET, KEY, Content::seeded(7, SIZE)).unwrap();
    run(async {
        let config = BucketConfig { region: None, ..config(&lab.endpoint()) };
        let client = client_of(&lab, config).await;
        assert_eq!(described(&client, KEY).await.size_bytes, SIZE);
        assert_eq!(client.bucket().region(), "eu-west-1");
    });
}
