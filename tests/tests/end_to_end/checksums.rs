//! Bytes spoilt on their way from S3, where S3 knows the checksum of what was written.

use tenderfs_lab::{Attributes, ChecksumKind, Fault, FaultRule, Operation};
use tenderfs_tests::Stage;

use super::check_all_in_parallel;

/// Proves that of objects up to 4 MiB no wrong byte reaches a reader.
#[test]
fn bits_flipped_by_the_store_never_reach_a_reader() {
    let Some(mut stage) = Stage::new() else { return };
    let sizes = (1..=60_u64).map(|n| (format!("images/{n:02}.jpg"), n * n * 1100));
    let files = stage.fill(sizes);
    for (index, file) in files.iter().enumerate() {
        let kind = [ChecksumKind::Crc32c, ChecksumKind::Sha256][index % 2];
        stage.put_with(file, Attributes { checksum: Some(kind), ..Attributes::default() });
    }
    stage.set("s3.attempts_max", 20);
    stage.start();
    let flip = FaultRule::new(Fault::FlipBit { offset: 500 }).operation(Operation::Get);
    let flip = stage.lab().faults().add(flip.probability(0.3, 11));
    check_all_in_parallel(&stage, &files, 8);
    let injected = stage.lab().faults().met(flip);
    let caught = stage.admin().metric("tenderfs_s3_checksums_total", &[("result", "mismatch")]);
    eprintln!("{injected} bits flipped, {caught} caught");
    assert!(injected > 5, "{injected}");
    assert_eq!(caught.to_string(), injected.to_string());
}
