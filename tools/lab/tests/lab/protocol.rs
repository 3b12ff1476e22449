//! S3 as it should be, without latency and faults.

use md5::{Digest, Md5};
use rusty_s3::{Credentials, Method, S3Action};
use tenderfs_lab::{Attributes, Content, Lab, Operation, Storage};

use crate::client::{Connection, End, Rig, SIGNED_FOR, ask, bucket};

fn hex_md5(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Md5::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn what_is_put_is_got_until_it_is_deleted() {
    let rig = Rig::new();
    let body = Content::seeded(1, 300_000).read(0, 300_000);
    let headers = [("x-amz-meta-colour", "green"), ("Content-Type", "image/jpeg")];
    let put = rig.put("a/b c.jpg", &headers, &body);
    assert_eq!((put.status, put.header("etag")), (200, &*format!("\"{}\"", hex_md5(&body))));

    let got = rig.get("a/b c.jpg", &[]);
    assert_eq!((got.status, got.end), (200, End::Whole));
    assert_eq!(got.body, body);
    for answer in [&got, &rig.head("a/b c.jpg", &[])] {
        assert_eq!(answer.header("etag"), put.header("etag"));
        assert_eq!(answer.header("content-length"), "300000");
        assert_eq!(answer.header("content-type"), "image/jpeg");
        assert_eq!(answer.header("x-amz-meta-colour"), "green");
        assert_eq!(answer.header("accept-ranges"), "bytes");
        assert!(answer.header("last-modified").ends_with(" GMT"));
        assert_eq!(answer.header("x-amz-request-id").len(), 16);
    }
    let url = rig.bucket.delete_object(Some(&rig.credentials), "a/b c.jpg").sign(SIGNED_FOR);
    assert_eq!(ask("DELETE", &url, &[], &[]).status, 204);
    assert_eq!(ask("DELETE", &url, &[], &[]).status, 204, "deleting nothing is no error");
    let missing = rig.get("a/b c.jpg", &[]);
    assert_eq!((missing.status, &*missing.element("Code")), (404, "NoSuchKey"));
    assert_eq!(rig.head("a/b c.jpg", &[]).status, 404);
}

#[test]
fn ranges_are_those_of_http() {
    let rig = Rig::new();
    let content = rig.seeded("k", 1000);
    rig.lab.put("data", "empty", "").unwrap();
    let cases = [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=990-5000", 990, 1000),
        ("bytes=999-", 999, 1000),
        ("bytes=-1", 999, 1000),
        ("bytes=-5000", 0, 1000),
    ];
    for (range, start, end) in cases {
        let got = rig.get("k", &[("Range", range)]);
        assert_eq!(got.status, 206, "{range}");
        assert_eq!(got.header("content-range"), format!("bytes {start}-{}/1000", end - 1));
        assert_eq!(got.body, content.read(start, end));
        let head = rig.head("k", &[("Range", range)]);
        assert_eq!(
            (head.status, head.header("content-length")),
            (206, &*(end - start).to_string())
        );
    }
    for (key, range, size) in [
        ("k", "bytes=1000-", "1000"),
        ("k", "bytes=-0", "1000"),
        ("empty", "bytes=0-0", "0"),
        ("empty", "bytes=-1", "0"),
    ] {
        let refused = rig.get(key, &[("Range", range)]);
        assert_eq!((refused.status, &*refused.element("Code")), (416, "InvalidRange"), "{range}");
        assert_eq!(refused.header("content-range"), format!("bytes */{size}"));
    }
    let empty = rig.get("empty", &[]);
    assert_eq!((empty.status, empty.header("content-length"), empty.end), (200, "0", End::Whole));
}

#[test]
fn conditions_are_kept() {
    let rig = Rig::new();
    let etag = rig.lab.put("data", "k", "hello").unwrap();
    let cases = [
        ("If-Match", &*etag, 200),
        ("If-Match", "\"0123\"", 412),
        ("If-Match", "*", 200),
        ("If-None-Match", &etag, 304),
        ("If-None-Match", "\"0123\"", 200),
        ("If-Modified-Since", "Thu, 01 Jan 2099 00:00:00 GMT", 304),
        ("If-Unmodified-Since", "Thu, 01 Jan 1998 00:00:00 GMT", 412),
    ];
    for (name, value, status) in cases {
        let got = rig.get("k", &[(name, value)]);
        assert_eq!((got.status, got.end), (status, End::Whole), "{name}: {value}");
        assert_eq!(rig.head("k", &[(name, value)]).status, status, "HEAD, {name}: {value}");
        match status {
            304 => assert_eq!((got.header("etag"), got.body.len()), (&*etag, 0)),
            412 => assert_eq!(got.element("Code"), "PreconditionFailed"),
            _ => assert_eq!(got.body, b"hello"),
        }
    }
    assert_eq!(rig.put("k", &[("If-None-Match", "*")], b"new").status, 412);
    assert_eq!(rig.put("new", &[("If-None-Match", "*")], b"new").status, 200);
    assert_eq!(rig.put("k", &[("If-Match", "\"0123\"")], b"new").status, 412);
    assert_eq!(rig.put("k", &[("If-Match", &etag)], b"new").status, 200);
}

#[test]
fn listings_come_in_pages_with_etags() {
    let rig = Rig::new();
    for number in 0..25 {
        rig.lab.put("data", &format!("dir/{number:02}"), format!("{number}")).unwrap();
        rig.lab.put("data", &format!("dir/sub{}/x", number % 3), "x").unwrap();
    }
    let (mut keys, mut prefixes, mut etags, mut token) = (vec![], vec![], vec![], String::new());
    let mut pages = 0;
    loop {
        let mut query = vec![("prefix", "dir/"), ("delimiter", "/"), ("max-keys", "10")];
        if !token.is_empty() {
            query.push(("continuation-token", &token));
        }
        let page = rig.list(&query);
        assert_eq!(page.status, 200, "{}", page.text());
        let count = page.elements("Key").len() + page.elements("CommonPrefixes").len();
        assert_eq!(page.element("KeyCount"), count.to_string());
        keys.extend(page.elements("Key"));
        etags.extend(page.elements("ETag"));
        prefixes.extend(page.elements("CommonPrefixes"));
        pages += 1;
        let next = page.element("NextContinuationToken");
        assert_eq!(page.element("IsTruncated"), (!next.is_empty()).to_string());
        if next.is_empty() {
            break;
        }
        token = next;
    }
    assert_eq!(pages, 3);
    assert_eq!(keys, (0..25).map(|number| format!("dir/{number:02}")).collect::<Vec<_>>());
    assert_eq!(etags[7], format!("\"{}\"", hex_md5(b"7")));
    let expected = ["0", "1", "2"].map(|sub| format!("<Prefix>dir/sub{sub}/</Prefix>"));
    assert_eq!(prefixes, expected);
    let after = rig.list(&[("prefix", "dir/"), ("start-after", "dir/22"), ("delimiter", "/")]);
    assert_eq!(after.elements("Key"), ["dir/23", "dir/24"]);
    let refused = rig.list(&[("continuation-token", "forged")]);
    assert_eq!((refused.status, &*refused.element("Code")), (400, "InvalidArgument"));
    assert_eq!(rig.lab.ledger().count(Operation::List), 5);
    assert_eq!(&*rig.lab.ledger().entries()[0].key, "dir/");

    let version_1 = ask(
        "GET",
        &rig.signed(Method::Get, "/data", &[("max-keys", "2"), ("marker", "dir/03")]),
        &[],
        &[],
    );
    assert_eq!(version_1.elements("Key"), ["dir/04", "dir/05"]);
    assert_eq!(version_1.element("NextMarker"), "dir/05");
}

#[test]
fn hostile_keys_are_kept_listed_and_got() {
    let rig = Rig::new();
    let long = "é".repeat(512);
    let keys =
        ["../x", "a//b", "/lead", "trail/", "c\u{1}\n\u{7f}", "s p+%2F&<>\"'", ".", &long, "nul\0"];
    for key in keys {
        rig.lab.put("data", key, key.to_owned()).unwrap();
    }
    assert!(rig.lab.put("data", &"x".repeat(1025), "").is_err());
    assert!(rig.lab.put("data", "", "").is_err());

    let encoded = rig.list(&[("encoding-type", "url")]);
    assert_eq!(encoded.element("EncodingType"), "url");
    let decoded: Vec<String> = rusty_s3::actions::ListObjectsV2::parse_response(&encoded.text())
        .unwrap()
        .contents
        .into_iter()
        .map(|object| object.key)
        .collect();
    let mut sorted = keys.to_vec();
    sorted.sort_unstable();
    assert_eq!(decoded, sorted);
    let raw = rig.list(&[]);
    assert!(raw.text().contains("<Key>c&#x1;&#xA;\u{7f}</Key>"), "{}", raw.text());
    assert!(raw.text().contains("s p+%2F&amp;&lt;&gt;&quot;&apos;"), "{}", raw.text());

    // What url's parser keeps as it is.
    for key in ["a//b", "/lead", "trail/", "c\u{1}\n\u{7f}", "s p+%2F&<>\"'", &long, "nul\0"] {
        let got = rig.get(key, &[]);
        assert_eq!((got.status, &*got.text()), (200, key));
    }
}

#[test]
fn a_hundred_thousand_keys_list_by_groups() {
    let rig = Rig::new();
    for number in 0..100_000 {
        let key = format!("g{:03}/{number:06}", number % 500);
        rig.lab.put("data", &key, Content::seeded(number, 1)).unwrap();
    }
    let groups = rig.list(&[("delimiter", "/")]);
    assert_eq!(groups.elements("CommonPrefixes").len(), 500);
    let (mut keys, mut token) = (0, String::new());
    loop {
        let mut query = vec![("prefix", "g4")];
        if !token.is_empty() {
            query.push(("continuation-token", &token));
        }
        let page = rig.list(&query);
        keys += page.elements("Key").len();
        token = page.element("NextContinuationToken");
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(keys, 20_000);
}

#[test]
fn multipart_uploads_are_joined() {
    let rig = Rig::with(Lab::builder().part_bytes_min(1000));
    let credentials = Some(&rig.credentials);
    let create = rig.bucket.create_multipart_upload(credentials, "big").sign(SIGNED_FOR);
    let upload = ask("POST", &create, &[], &[]).element("UploadId");
    let parts = [Content::seeded(1, 2000), Content::seeded(2, 2000), Content::seeded(3, 10)];
    let mut etags = Vec::new();
    for (number, part) in (1..).zip(&parts) {
        let url = rig.bucket.upload_part(credentials, "big", number, &upload).sign(SIGNED_FOR);
        let put = ask("PUT", &url, &[], &part.read(0, 2000));
        assert_eq!(put.status, 200, "{}", put.text());
        etags.push(put.header("etag").to_owned());
    }
    let listed = rig.bucket.list_parts(credentials, "big", &upload).sign(SIGNED_FOR);
    let listed = ask("GET", &listed, &[], &[]);
    assert_eq!(listed.elements("PartNumber"), ["1", "2", "3"]);
    assert_eq!(listed.elements("Size"), ["2000", "2000", "10"]);
    assert_eq!(rig.get("big", &[]).status, 404, "not there before it is complete");

    let complete = |etags: &[&str]| {
        let names = etags.iter().copied();
        let action = rig.bucket.complete_multipart_upload(credentials, "big", &upload, names);
        let url = action.sign(SIGNED_FOR);
        ask("POST", &url, &[], action.body().as_bytes())
    };
    assert_eq!(complete(&["\"0\""]).element("Code"), "InvalidPart");
    let etags: Vec<&str> = etags.iter().map(String::as_str).collect();
    let done = complete(&etags);
    assert_eq!(done.status, 200, "{}", done.text());
    let whole: Vec<u8> = parts.iter().flat_map(|part| part.read(0, 2000)).collect();
    let got = rig.get("big", &[]);
    assert_eq!(got.body, whole);
    let digests: Vec<u8> = parts.iter().flat_map(|part| Md5::digest(part.read(0, 2000))).collect();
    assert_eq!(got.header("etag"), format!("\"{}-3\"", hex_md5(&digests)));
    assert_eq!(rig.get("big", &[("Range", "bytes=1990-4005")]).body, &whole[1990..4006]);
    assert_eq!(complete(&etags).element("Code"), "NoSuchUpload");
}

#[test]
fn uploads_are_abandoned_and_small_parts_refused() {
    use Operation as O;
    let rig = Rig::new();
    let credentials = Some(&rig.credentials);
    let create = rig.bucket.create_multipart_upload(credentials, "big").sign(SIGNED_FOR);
    let upload = ask("POST", &create, &[], &[]).element("UploadId");
    let etags: Vec<String> = (1..=2)
        .map(|number| {
            let url = rig.bucket.upload_part(credentials, "big", number, &upload).sign(SIGNED_FOR);
            ask("PUT", &url, &[], b"small").header("etag").to_owned()
        })
        .collect();
    let names = etags.iter().map(String::as_str);
    let action = rig.bucket.complete_multipart_upload(credentials, "big", &upload, names);
    let url = action.sign(SIGNED_FOR);
    let refused = ask("POST", &url, &[], action.body().as_bytes());
    assert_eq!((refused.status, &*refused.element("Code")), (400, "EntityTooSmall"));
    let abort = rig.bucket.abort_multipart_upload(credentials, "big", &upload).sign(SIGNED_FOR);
    assert_eq!(ask("DELETE", &abort, &[], &[]).status, 204);
    assert_eq!(ask("DELETE", &abort, &[], &[]).element("Code"), "NoSuchUpload");
    let operations: Vec<Operation> =
        rig.lab.ledger().entries().iter().map(|entry| entry.operation).collect();
    let expected = [
        O::CreateUpload,
        O::UploadPart,
        O::UploadPart,
        O::CompleteUpload,
        O::AbortUpload,
        O::AbortUpload,
    ];
    assert_eq!(operations, expected);
}

#[test]
fn objects_are_copied_with_what_they_carry() {
    let rig = Rig::new();
    let etag = rig.put("from here", &[("x-amz-meta-a", "b")], b"text").header("etag").to_owned();
    let url = rig.signed(Method::Put, "/data/to", &[]);
    let copied = ask("PUT", &url, &[("x-amz-copy-source", "/data/from%20here")], &[]);
    assert_eq!((copied.status, &*copied.element("ETag")), (200, &*etag));
    let got = rig.get("to", &[]);
    assert_eq!((&*got.text(), got.header("x-amz-meta-a")), ("text", "b"));
    let replaced = [
        ("x-amz-copy-source", "/data/to"),
        ("x-amz-metadata-directive", "REPLACE"),
        ("x-amz-copy-source-if-match", &etag),
    ];
    assert_eq!(ask("PUT", &url, &replaced, &[]).status, 200);
    assert_eq!(rig.get("to", &[]).header("x-amz-meta-a"), "");
    let headers = [("x-amz-copy-source", "/data/to"), ("x-amz-copy-source-if-match", "\"0\"")];
    assert_eq!(ask("PUT", &url, &headers, &[]).status, 412);
    let missing = ask("PUT", &url, &[("x-amz-copy-source", "/data/none")], &[]);
    assert_eq!(missing.element("Code"), "NoSuchKey");
    assert_eq!(rig.lab.ledger().count(Operation::Copy), 4);
}

#[test]
fn many_objects_are_deleted_at_once() {
    let rig = Rig::new();
    for key in ["a", "b", "c"] {
        rig.lab.put("data", key, "x").unwrap();
    }
    let url = rig.signed(Method::Post, "/data", &[("delete", "")]);
    let body = "<Delete><Object><Key>a</Key></Object><Object><Key>c</Key></Object></Delete>";
    let deleted = ask("POST", &url, &[], body.as_bytes());
    assert_eq!(deleted.elements("Key"), ["a", "c"], "{}", deleted.text());
    assert_eq!(rig.list(&[]).elements("Key"), ["b"]);
    assert_eq!(rig.lab.ledger().count(Operation::DeleteMany), 1);
}

#[test]
fn buckets_come_and_go() {
    let rig = Rig::new();
    let other = bucket(&rig.lab, "other", "us-east-1");
    let create = other.create_bucket(&rig.credentials).sign(SIGNED_FOR);
    assert_eq!(ask("PUT", &create, &[], &[]).status, 200);
    assert_eq!(ask("PUT", &create, &[], &[]).element("Code"), "BucketAlreadyOwnedByYou");
    let listed = ask("GET", &rig.signed(Method::Get, "/", &[]), &[], &[]);
    assert_eq!(listed.elements("Name"), ["data", "other"]);
    let head = other.head_bucket(Some(&rig.credentials)).sign(SIGNED_FOR);
    let head = ask("HEAD", &head, &[], &[]);
    assert_eq!((head.status, head.header("x-amz-bucket-region")), (200, "us-east-1"));
    rig.lab.put("other", "k", "x").unwrap();
    let delete = other.delete_bucket(&rig.credentials).sign(SIGNED_FOR);
    assert_eq!(ask("DELETE", &delete, &[], &[]).element("Code"), "BucketNotEmpty");
    assert!(rig.lab.delete("other", "k").unwrap());
    assert_eq!(ask("DELETE", &delete, &[], &[]).status, 204);
    for url in [
        other.get_object(Some(&rig.credentials), "k").sign(SIGNED_FOR),
        other.list_objects_v2(Some(&rig.credentials)).sign(SIGNED_FOR),
    ] {
        let missing = ask("GET", &url, &[], &[]);
        assert_eq!((missing.status, &*missing.element("Code")), (404, "NoSuchBucket"));
    }
}

#[test]
fn only_the_right_signature_is_let_in() {
    let rig = Rig::new();
    rig.lab.put("data", "k", "text").unwrap();
    let get = |credentials: Option<&Credentials>| {
        ask("GET", &rig.bucket.get_object(credentials, "k").sign(SIGNED_FOR), &[], &[])
    };
    let wrong = get(Some(&Credentials::new(rig.lab.access_key(), "wrong")));
    assert_eq!((wrong.status, &*wrong.element("Code")), (403, "SignatureDoesNotMatch"));
    let unknown = Credentials::new("nobody", "secret");
    assert_eq!(get(Some(&unknown)).element("Code"), "InvalidAccessKeyId");
    let anonymous = get(None);
    assert_eq!((anonymous.status, &*anonymous.element("Code")), (403, "AccessDenied"));
    rig.lab.add_credentials("nobody", "secret");
    assert_eq!(get(Some(&unknown)).status, 200);
    assert!(rig.lab.remove_credentials("nobody"));
    assert_eq!(get(Some(&unknown)).status, 403);

    let open = Rig::with(Lab::builder().allow_anonymous());
    open.lab.put("data", "k", "text").unwrap();
    let get = |credentials: Option<&Credentials>| {
        ask("GET", &open.bucket.get_object(credentials, "k").sign(SIGNED_FOR), &[], &[]).status
    };
    assert_eq!(get(None), 200);
    assert_eq!(get(Some(&Credentials::new(open.lab.access_key(), "wrong"))), 403);
}

#[test]
fn another_region_is_refused_and_the_right_one_named() {
    let rig = Rig::with(Lab::builder().region("eu-west-1"));
    rig.lab.put("data", "k", "text").unwrap();
    let refused = rig.get("k", &[]);
    assert_eq!(refused.status, 400);
    assert_eq!(refused.element("Code"), "AuthorizationQueryParametersError");
    assert_eq!(refused.element("Region"), "eu-west-1");
    assert_eq!(refused.header("x-amz-bucket-region"), "eu-west-1");
    assert!(refused.text().contains("the region 'us-east-1' is wrong; expecting 'eu-west-1'"));
    let right = bucket(&rig.lab, "data", "eu-west-1");
    let url = right.get_object(Some(&rig.credentials), "k").sign(SIGNED_FOR);
    assert_eq!(ask("GET", &url, &[], &[]).status, 200);
    let header = "AWS4-HMAC-SHA256 Credential=k/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
    let url = right.object_url("k");
    let refused = ask("GET", &url, &[("Authorization", header)], &[]);
    assert_eq!(refused.element("Code"), "AuthorizationHeaderMalformed");
    assert_eq!(refused.element("Region"), "eu-west-1");
}

#[test]
fn archived_objects_are_seen_but_not_read() {
    let rig = Rig::new();
    let class =
        |class: &str| Attributes { storage_class: Some(class.into()), ..Attributes::default() };
    rig.lab.put_with("data", "cold", "text", class("GLACIER")).unwrap();
    rig.lab.put_with("data", "warm", "text", class("STANDARD_IA")).unwrap();
    let refused = rig.get("cold", &[]);
    assert_eq!((refused.status, &*refused.element("Code")), (403, "InvalidObjectState"));
    let head = rig.head("cold", &[]);
    assert_eq!((head.status, head.header("x-amz-storage-class")), (200, "GLACIER"));
    assert_eq!(rig.get("warm", &[]).status, 200);
    assert_eq!(rig.list(&[]).elements("StorageClass"), ["GLACIER", "STANDARD_IA"]);
}

#[test]
fn buckets_may_be_named_by_the_host() {
    let rig = Rig::with(Lab::builder().domain("localhost").allow_anonymous());
    rig.lab.put("data", "a/k", "text").unwrap();
    let url = format!("{}/a/k", rig.lab.endpoint()).parse().unwrap();
    let got = ask("GET", &url, &[("Host", "data.localhost:9000")], &[]);
    assert_eq!((got.status, &*got.text()), (200, "text"));
    assert_eq!(rig.get("a/k", &[]).status, 200, "path style goes on");
    let entries = rig.lab.ledger().entries();
    assert_eq!((&*entries[0].bucket, &*entries[0].key), ("data", "a/k"));
}

#[test]
fn a_folder_is_served_as_buckets() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::Folder(folder.path().to_owned());
    let rig = Rig::with(Lab::builder().storage(storage));
    std::fs::create_dir(folder.path().join("data/sub")).unwrap();
    std::fs::write(folder.path().join("data/sub/file"), "from outside").unwrap();
    let got = rig.get("sub/file", &[("Range", "bytes=5-")]);
    assert_eq!((got.status, &*got.text()), (206, "outside"));
    let put = rig.put("new/file", &[], b"from inside");
    assert_eq!(put.status, 200);
    assert_eq!(std::fs::read(folder.path().join("data/new/file")).unwrap(), b"from inside");
    let listed = rig.list(&[]);
    assert_eq!(listed.elements("Key"), ["new/file", "sub/file"]);
    assert_eq!(listed.elements("ETag")[0], put.header("etag"));
    assert_eq!(rig.put("a//b", &[], b"x").element("Code"), "InvalidArgument");
}

#[test]
fn requests_on_one_connection_are_told_apart() {
    let rig = Rig::new();
    let content = rig.seeded("k", 1 << 20);
    let url = rig.get_url("k");
    let mut connection = Connection::open(&url);
    // Both are sent before the first is answered.
    connection.send("GET", &url, &[("Range", "bytes=0-99")], &[]);
    connection.send("GET", &url, &[("Range", "bytes=100-1048575")], &[]);
    assert_eq!(connection.receive("GET").body, content.read(0, 100));
    assert_eq!(connection.receive("GET").body, content.read(100, 1 << 20));
    let head = rig.bucket.head_object(Some(&rig.credentials), "k").sign(SIGNED_FOR);
    connection.send("HEAD", &head, &[], &[]);
    assert_eq!(connection.receive("HEAD").status, 200);

    let entries = rig.lab.ledger().entries();
    let facts: Vec<_> = entries
        .iter()
        .map(|entry| {
            (entry.operation, entry.range, entry.status, entry.body_bytes_sent, entry.connection)
        })
        .collect();
    let expected = [
        (Operation::Get, Some((0, 100)), 206, 100, 0),
        (Operation::Get, Some((100, 1 << 20)), 206, (1 << 20) - 100, 0),
        (Operation::Head, None, 200, 0, 0),
    ];
    assert_eq!(facts, expected);
    for entry in entries {
        assert!(entry.completed && entry.fault.is_none(), "{entry:?}");
        assert!(entry.started <= entry.first_byte.unwrap() && entry.first_byte <= entry.ended);
    }
    assert_eq!((rig.lab.ledger().gets(), rig.lab.ledger().body_bytes()), (2, 1 << 20));
}

#[test]
fn a_client_that_leaves_is_told_in_the_ledger() {
    let rig = Rig::new();
    rig.seeded("k", 64 << 20);
    let mut connection = Connection::open(&rig.get_url("k"));
    connection.send("GET", &rig.get_url("k"), &[], &[]);
    connection.receive_some();
    drop(connection);
    let entry = rig.only_entry();
    assert!(!entry.completed);
    assert!(entry.body_bytes_sent > 0 && entry.body_bytes_sent < 64 << 20, "{entry:?}");
}
