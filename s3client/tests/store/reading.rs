//! Reads of objects that nothing goes wrong with.

use futures_util::future::join_all;

use super::*;

#[test]
fn a_head_describes_the_object() {
    let lab = lab();
    let etag = lab.put(BUCKET, "a", Content::from(b"seven b".to_vec())).unwrap();
    run(async {
        let object = described(&client(&lab).await, "a").await;
        assert_eq!((object.etag, object.size_bytes), (etag, 7));
        assert!(object.modified.elapsed().unwrap() < Duration::from_mins(1));
    });
}

#[test]
fn any_range_is_read_exactly() {
    let lab = lab();
    run(async {
        let client = client(&lab).await;
        let object = described(&client, KEY).await;
        for range in [(0, SIZE), (0, 1), (SIZE - 1, SIZE), (1, SIZE - 1), (4095, 70_001)] {
            let bytes = read(&client, &object, range).await.unwrap();
            assert_eq!(bytes.len() as u64, range.1 - range.0);
            check_bytes(&lab, KEY, range.0, &bytes);
        }
    });
}

#[test]
fn odd_keys_reach_their_own_objects() {
    let lab = lab();
    let keys = ["a//b", "a b+c%", "a+b", "a%20b", "x?y#z&w=1", "grün/日本", "tab\tnl", "a/", "%2e"];
    for key in keys {
        lab.put(BUCKET, key, Content::from(key.as_bytes().to_vec())).unwrap();
    }
    run(async {
        let client = client(&lab).await;
        for key in keys {
            let object = described(&client, key).await;
            let bytes = read(&client, &object, (0, object.size_bytes)).await.unwrap();
            assert_eq!(bytes, key.as_bytes(), "{key:?}");
        }
        for key in ["a/../shard-0.tar", ".", "../data/shard-0.tar", ""] {
            let error = client.head(key, Importance::Demand).await.unwrap_err();
            assert!(matches!(error, Error::KeyUnusable { .. }), "{key:?}: {error}");
        }
    });
}

#[test]
fn a_range_behind_the_end_is_never_asked_for() {
    let lab = lab();
    run(async {
        let client = client(&lab).await;
        let object = described(&client, KEY).await;
        let error = read(&client, &object, (SIZE - 1, SIZE + 1)).await.unwrap_err();
        assert!(matches!(error, Error::RangeNotSatisfiable { .. }), "{error}");
        assert_eq!(lab.ledger().gets(), 0);
    });
}

#[test]
fn a_replaced_object_is_never_mixed_with_its_successor() {
    let lab = lab();
    run(async {
        let client = client(&lab).await;
        let old = described(&client, KEY).await;
        lab.put(BUCKET, KEY, Content::seeded(8, SIZE)).unwrap();
        let error = read(&client, &old, (0, SIZE)).await.unwrap_err();
        assert!(matches!(error, Error::Replaced { .. }), "{error}");
        // Without an ETag any version will do.
        let any = ListedObject { etag: String::new(), ..old };
        let bytes = read(&client, &any, (0, SIZE)).await.unwrap();
        check_bytes(&lab, KEY, 0, &bytes);
    });
}

#[test]
fn requests_one_after_another_share_a_connection() {
    let lab = lab();
    run(async {
        let client = client(&lab).await;
        let object = described(&client, KEY).await;
        for _ in 0..10 {
            read(&client, &object, (0, SIZE)).await.unwrap();
        }
        let entries = lab.ledger().entries();
        assert!(entries.iter().all(|entry| entry.connection == entries[0].connection));
        assert_eq!(counters(&client).connections_opened.get(), 1);
    });
}

#[test]
fn many_requests_at_once_share_a_bounded_number_of_connections() {
    let lab = lab();
    run(async {
        let client = client(&lab).await;
        let object = described(&client, KEY).await;
        let reads = (0..100).map(|_| read(&client, &object, (0, 10_000)));
        assert!(join_all(reads).await.iter().all(Result::is_ok));
        let counters = counters(&client);
        assert!(counters.connections_opened.get() <= 8, "{:?}", counters.connections_opened);
        assert_eq!(counters.waiting_for_connection.get(), 0);
    });
}

/// Proves W11 (prefetches leave connections to demand).
#[test]
fn prefetches_leave_connections_to_demand() {
    let lab = lab();
    run(async {
        let client = client(&lab).await;
        let object = described(&client, KEY).await;
        let mut held = Vec::new();
        for _ in 0..6 {
            held.push(open(&client, &object, (0, SIZE), Importance::Prefetch).await.unwrap());
        }
        let seventh = open(&client, &object, (0, SIZE), Importance::Prefetch);
        assert!(tokio::time::timeout(ms(100), seventh).await.is_err(), "all slots were taken");
        let demand = read(&client, &object, (0, SIZE));
        assert!(tokio::time::timeout(ms(20_000), demand).await.unwrap().is_ok());
    });
}

#[test]
fn a_body_dropped_midway_closes_its_connection_unless_little_is_left() {
    let lab = lab();
    lab.put(BUCKET, "big", Content::seeded(1, 64 << 20)).unwrap();
    run(async {
        let client = client(&lab).await;
        let big = described(&client, "big").await;
        let opened = || counters(&client).connections_opened.get();
        let before = opened();
        let mut body = open(&client, &big, (0, 64 << 20), Importance::Demand).await.unwrap();
        body.read(&mut [0; 1000]).await.unwrap();
        drop(body);
        assert_eq!(counters(&client).connections_open.get(), 0);
        described(&client, "big").await;
        assert_eq!(opened(), before + 1);

        let body = open(&client, &big, (0, 10_000), Importance::Demand).await.unwrap();
        drop(body);
        described(&client, "big").await;
        assert_eq!(opened(), before + 1, "little was left to read");
    });
}

#[test]
fn a_dropped_wait_for_the_next_bytes_loses_none() {
    let lab = lab();
    lab.shape(tenderfs_lab::Shape {
        connection_bytes_per_second: Some(8 << 20),
        ..Default::default()
    });
    run(async {
        let client = client(&lab).await;
        let object = described(&client, KEY).await;
        let mut body = open(&client, &object, (0, SIZE), Importance::Demand).await.unwrap();
        let (mut bytes, mut room) = (Vec::new(), vec![0; 200_000]);
        loop {
            match tokio::time::timeout(Duration::from_micros(500), body.read(&mut room)).await {
                Err(_) => {}
                Ok(Ok(0)) => break,
                Ok(Ok(count)) => bytes.extend_from_slice(&room[..count]),
                Ok(Err(error)) => panic!("{error}"),
            }
        }
        assert_eq!(bytes.len() as u64, SIZE);
        check_bytes(&lab, KEY, 0, &bytes);
        assert_eq!(lab.ledger().gets(), 1);
    });
}

#[test]
fn the_client_runs_beside_io_uring() {
    let lab = lab();
    tokio_uring::start(async {
        let client = client(&lab).await;
        let object = described(&client, KEY).await;
        let bytes = read(&client, &object, (0, SIZE)).await.unwrap();
        check_bytes(&lab, KEY, 0, &bytes);
    });
}

#[test]
fn the_bucket_can_stand_before_the_host() {
    let lab = Lab::builder().domain("localhost").start().unwrap();
    lab.create_bucket(BUCKET).unwrap();
    lab.put(BUCKET, KEY, Content::seeded(7, SIZE)).unwrap();
    run(async {
        let endpoint = format!("http://localhost:{}", lab.address().port());
        let config = BucketConfig { addressing: Addressing::VirtualHost, ..config(&endpoint) };
        let client = client_of(&lab, config).await;
        match client.head(KEY, Importance::Prefetch).await {
            Ok(object) => assert_eq!(object.size_bytes, SIZE),
            // Not every resolver knows names below localhost.
            Err(error) => assert!(matches!(error, Error::Unreachable { .. }), "{error}"),
        }
    });
}

#[test]
fn who_pays_and_who_is_anonymous_is_said() {
    let lab = Lab::builder().allow_anonymous().start().unwrap();
    lab.create_bucket(BUCKET).unwrap();
    lab.put(BUCKET, KEY, Content::seeded(7, SIZE)).unwrap();
    run(async {
        let paying = BucketConfig { requester_pays: true, ..config(&lab.endpoint()) };
        described(&client_of(&lab, paying).await, KEY).await;
        let nobody = Credentials::resolve(CredentialSource::Anonymous).await.unwrap();
        let client = Client::new(Bucket::new(config(&lab.endpoint()), nobody).unwrap());
        described(&client, KEY).await;
    });
}
