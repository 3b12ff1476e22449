//! Bytes that are not those which were written, where the store knows their checksum.

use tenderfs_lab::{Attributes, ChecksumKind, Content, Fault, FaultRule, Operation};

use super::*;

const OBJECT_BYTES: u64 = 300_000;

fn put(lab: &Lab, key: &str, checksum: Option<ChecksumKind>) {
    let content = Content::seeded(7, OBJECT_BYTES);
    lab.put_with(BUCKET, key, content, Attributes { checksum, ..Attributes::default() }).unwrap();
}

fn flips(lab: &Lab, times: u64) {
    let flip = Fault::FlipBit { offset: 123_456 };
    lab.faults().add(FaultRule::new(flip).operation(Operation::Get).times(times));
}

async fn read_checked(client: &Client, key: &str) -> Result<Vec<u8>, Error> {
    let object = described(client, key).await;
    let mut body = open(client, &object, (0, OBJECT_BYTES), Importance::Demand).await?;
    assert!(body.has_checksum());
    let mut bytes = vec![0; usize::try_from(OBJECT_BYTES).unwrap()];
    body.read_checked(&mut bytes).await?;
    Ok(bytes)
}

#[test]
fn a_flipped_bit_is_noticed_and_the_object_asked_for_again() {
    let lab = lab();
    for (key, kind) in [("crc32c", ChecksumKind::Crc32c), ("sha256", ChecksumKind::Sha256)] {
        put(&lab, key, Some(kind));
        run(async {
            let client = client(&lab).await;
            flips(&lab, 2);
            let mark = lab.ledger().mark();
            let bytes = read_checked(&client, key).await.unwrap();
            check_bytes(&lab, key, 0, &bytes);
            assert_eq!(gets(&lab.ledger().since(mark)).len(), 3);
            assert_eq!(counters(&client).checksum_mismatches.get(), 2);
            assert_eq!(counters(&client).checksums_compared.get(), 1);
        });
    }
}

#[test]
fn bytes_that_stay_wrong_are_an_error() {
    let lab = lab();
    put(&lab, "bad", Some(ChecksumKind::Crc32c));
    run(async {
        let client = client(&lab).await;
        flips(&lab, 1000);
        let error = read_checked(&client, "bad").await.unwrap_err();
        assert!(error.to_string().contains("CRC32C"), "{error}");
    });
}

#[test]
fn a_body_that_breaks_off_is_compared_as_a_whole() {
    let lab = lab();
    put(&lab, "broken", Some(ChecksumKind::Crc32c));
    run(async {
        let client = client(&lab).await;
        let cut = Fault::Truncate { after_bytes: 100_000 };
        lab.faults().add(FaultRule::new(cut).operation(Operation::Get).times(1));
        let bytes = read_checked(&client, "broken").await.unwrap();
        check_bytes(&lab, "broken", 0, &bytes);
        assert_eq!(counters(&client).checksum_mismatches.get(), 0);
    });
}

#[test]
fn an_object_without_a_checksum_and_a_part_of_one_have_none() {
    let lab = lab();
    put(&lab, "none", None);
    put(&lab, "part", Some(ChecksumKind::Crc32c));
    run(async {
        let client = client(&lab).await;
        for (key, range) in [("none", (0, OBJECT_BYTES)), ("part", (1, OBJECT_BYTES))] {
            let object = described(&client, key).await;
            let body = open(&client, &object, range, Importance::Demand).await.unwrap();
            assert!(!body.has_checksum(), "{key}");
        }
    });
}
