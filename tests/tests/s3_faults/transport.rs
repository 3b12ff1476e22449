//! Who is at the other end: certificates that are not to be trusted, names that lead nowhere, and the
//! largest and smallest objects.

use std::fs;
use std::os::unix::fs::FileExt as _;

use tenderfs_lab::{Attributes, Content, TlsFront};
use tenderfs_tests::{Stage, run};

use super::{LIMIT, check_all, impatient_stage};

/// A stage whose daemon asks in TLS, with a certificate for `name`, and the certificate's file.
fn encrypted(name: &str) -> Option<(Stage, TlsFront, String)> {
    let mut stage = impatient_stage()?;
    let front = TlsFront::start(stage.lab(), &[name]).unwrap();
    let bundle = stage.folder().join("ca.pem");
    fs::write(&bundle, front.certificate()).unwrap();
    stage.set_mount("endpoint_url", format!("https://127.0.0.1:{}", front.port()));
    Some((stage, front, bundle.to_str().unwrap().to_owned()))
}

/// The one line by which the daemon refuses to start.
#[track_caller]
fn refusal(stage: &mut Stage) -> String {
    stage.set("log.level", "error").set("daemon.mount_timeout", "1s");
    let outcome = run(&mut stage.daemon_command(), LIMIT);
    assert_ne!(outcome.code(), 0, "it has mounted");
    outcome.stderr
}

#[test]
fn a_store_in_tls_is_read_with_its_authority_and_refused_without() {
    let Some((mut stage, _front, bundle)) = encrypted("127.0.0.1") else { return };
    let files = stage.fill([("file", 5_000_000), ("small", 5_000)]);
    let said = refusal(&mut stage);
    assert!(said.contains("TLS") && said.contains("ca_bundle"), "{said}");
    assert_eq!(stage.lab().ledger().entries().len(), 0, "it was asked all the same");
    stage.set_mount("ca_bundle", bundle);
    stage.start();
    check_all(&stage, &files);
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let Some((mut stage, _front, bundle)) = encrypted("store.example") else { return };
    stage.set_mount("ca_bundle", bundle);
    let said = refusal(&mut stage);
    assert!(said.contains("TLS") && said.contains("name"), "{said}");
    assert_eq!(stage.lab().ledger().entries().len(), 0);
}

#[test]
fn a_name_that_leads_nowhere_is_said_to() {
    let Some(mut stage) = impatient_stage() else { return };
    // RFC 6761 keeps the name from ever having an address.
    stage.set_mount("endpoint_url", "http://store.invalid");
    let said = refusal(&mut stage);
    assert!(said.contains("http://store.invalid"), "{said}");
}

#[test]
fn the_largest_and_the_smallest_objects_have_their_sizes_and_bytes() {
    const LARGEST: u64 = 5 << 40;
    let Some(mut stage) = impatient_stage() else { return };
    // An MD5 of 5 TiB would take hours.
    let attributes = Attributes { etag: Some("ab".repeat(16)), ..Attributes::default() };
    let content = Content::seeded(7, LARGEST);
    stage.lab().put_with(stage.bucket(), "largest", content.clone(), attributes).unwrap();
    stage.fill([("nothing", 0)]);
    stage.start();
    assert_eq!(fs::metadata(stage.path("nothing")).unwrap().len(), 0);
    assert_eq!(fs::read(stage.path("nothing")).unwrap(), b"");
    assert_eq!(fs::metadata(stage.path("largest")).unwrap().len(), LARGEST);
    let largest = fs::File::open(stage.path("largest")).unwrap();
    for offset in [0, LARGEST / 3, LARGEST - 100] {
        let mut bytes = [0; 100];
        largest.read_exact_at(&mut bytes, offset).unwrap();
        assert_eq!(bytes[..], content.read(offset, offset + 100)[..], "at {offset}");
    }
}
