//! The control endpoint does what the Rust API does.

use serde_json::{Value, json};
use tenderfs_lab::{Latency, Mark};
use url::Url;

use crate::client::{Rig, ask};

impl Rig {
    fn control(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let url: Url = format!("{}{path}", self.lab.control_url()).parse().unwrap();
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let answer = ask(method, &url, &[], &body);
        assert_eq!(answer.header("content-type"), "application/json");
        (answer.status, serde_json::from_slice(&answer.body).unwrap())
    }
}

#[test]
fn the_ledger_is_read_and_cleared() {
    let rig = Rig::new();
    rig.seeded("k", 1000);
    rig.get("k", &[("Range", "bytes=0-9")]);
    rig.list(&[("prefix", "k")]);
    let (status, ledger) = rig.control("GET", "/ledger", &Value::Null);
    assert_eq!((status, &ledger["next"], &ledger["dropped"]), (200, &json!(2), &json!(0)));
    let entry = &ledger["entries"][0];
    assert_eq!(entry["operation"], "get");
    assert_eq!((&entry["bucket"], &entry["key"]), (&json!("data"), &json!("k")));
    assert_eq!((&entry["range"], &entry["status"]), (&json!([0, 10]), &json!(206)));
    assert_eq!((&entry["body_bytes_sent"], &entry["completed"]), (&json!(10), &json!(true)));
    assert!(entry["started_ns"].as_u64() < entry["ended_ns"].as_u64());
    let (_, rest) = rig.control("GET", "/ledger?since=1", &Value::Null);
    assert_eq!(rest["entries"].as_array().unwrap().len(), 1);
    let (_, none) = rig.control("GET", "/ledger?since=2", &Value::Null);
    assert_eq!((&none["next"], &none["entries"]), (&json!(2), &json!([])));
    let (_, stats) = rig.control("GET", "/stats", &Value::Null);
    let expected =
        json!({"requests": 2, "gets": 1, "body_bytes": 10, "under_way": 0, "dropped": 0});
    assert_eq!(stats, expected);
    assert_eq!(rig.control("DELETE", "/ledger", &Value::Null).0, 200);
    assert_eq!((rig.lab.ledger().entries().len(), rig.lab.ledger().mark()), (0, Mark(2)));
}

#[test]
fn the_shape_is_read_and_set() {
    let rig = Rig::new();
    let shape = json!({
        "first_byte": {"fixed": 0.02},
        "connection_bytes_per_second": 90_000_000,
        "total_bytes_per_second": null, "requests_per_second": null,
    });
    assert_eq!(rig.control("PUT", "/shape", &shape).0, 200);
    assert_eq!(rig.control("GET", "/shape", &Value::Null).1, shape);
    let twenty = std::time::Duration::from_millis(20);
    assert_eq!(rig.lab.shape_in_force().first_byte, Latency::Fixed(twenty));
    let (status, error) = rig.control("PUT", "/shape", &json!({"first_byte": {"fixed": -1.0}}));
    assert_eq!(status, 400);
    assert!(error["error"].as_str().unwrap().contains("negative"), "{error}");
}

#[test]
fn faults_are_added_and_taken_away() {
    let rig = Rig::new();
    rig.seeded("k", 10);
    let rule = json!({
        "on": {"operation": "get", "key": {"exact": "k"}},
        "times": 1,
        "fault": {"status": {"code": 503, "retry_after": 2}},
    });
    assert_eq!(rig.control("POST", "/faults", &rule), (200, json!({"id": 0})));
    assert_eq!(rig.get("k", &[]).header("retry-after"), "2");
    assert_eq!(rig.get("k", &[]).status, 200);
    let (_, rules) = rig.control("GET", "/faults", &Value::Null);
    assert_eq!((&rules[0]["met"], &rules[0]["rule"]["fault"]), (&json!(1), &rule["fault"]));
    assert_eq!(rig.control("DELETE", "/faults/0", &Value::Null).0, 200);
    assert_eq!(rig.control("DELETE", "/faults/0", &Value::Null).0, 404);
    rig.control("POST", "/faults", &json!({"fault": "hang_before_headers"}));
    assert_eq!(rig.control("DELETE", "/faults", &Value::Null).0, 200);
    assert_eq!(rig.get("k", &[]).status, 200);
    assert_eq!(rig.control("POST", "/faults", &json!({"fault": "unheard_of"})).0, 400);
    assert_eq!(rig.control("POST", "/ledger", &Value::Null).0, 405);
    assert_eq!(rig.control("GET", "/other", &Value::Null).0, 404);
}
