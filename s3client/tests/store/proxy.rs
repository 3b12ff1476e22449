//! Stores behind a proxy. Their names are known to the proxy alone.

use std::sync::{Arc, Mutex};

use tenderfs_s3client::Proxies;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::tls::front;

/// A name that only the proxy can look up.
const NAME: &str = "store.test";

/// A proxy that leads everything to `port` of this machine, and the first lines of what it was asked,
/// each with its `Proxy-Authorization`.
async fn proxy(port: u16) -> (u16, Arc<Mutex<Vec<(String, Option<String>)>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await?);
                }
                let text = String::from_utf8(head.clone()).unwrap();
                let line = text.lines().next().unwrap().to_owned();
                let authorization = text
                    .lines()
                    .find_map(|line| line.strip_prefix("proxy-authorization: "))
                    .or_else(|| text.lines().find_map(|l| l.strip_prefix("Proxy-Authorization: ")));
                seen.lock().unwrap().push((line.clone(), authorization.map(str::to_owned)));
                let mut store = TcpStream::connect(("127.0.0.1", port)).await?;
                if line.starts_with("CONNECT ") {
                    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
                } else {
                    // The store is asked for a path, as by anybody.
                    let path = line.replacen(&format!("http://{NAME}"), "", 1);
                    store.write_all(text.replacen(&line, &path, 1).as_bytes()).await?;
                }
                copy_bidirectional(&mut client, &mut store).await
            });
        }
    });
    (here, asked)
}

fn lab_port(lab: &Lab) -> u16 {
    lab.address().port()
}

#[test]
fn a_plain_store_is_asked_by_the_proxy_in_its_whole_address() {
    let lab = lab();
    run(async {
        let (port, asked) = proxy(lab_port(&lab)).await;
        let mut config = config(&format!("http://{NAME}"));
        config.proxies = Proxies::new(&format!("http://me:pass@127.0.0.1:{port}"), "", "");
        let client = client_of(&lab, config).await;
        let object = described(&client, KEY).await;
        check_bytes(&lab, KEY, 0, &read(&client, &object, (0, SIZE)).await.unwrap());
        let asked = asked.lock().unwrap();
        let (line, authorization) = &asked[0];
        assert!(line.starts_with(&format!("HEAD http://{NAME}/{BUCKET}/{KEY}?")), "{line}");
        assert_eq!(authorization.as_deref(), Some("Basic bWU6cGFzcw=="));
    });
}

#[test]
fn a_store_with_tls_is_reached_through_a_tunnel() {
    let lab = lab();
    let (front, _folder, bundle) = front(&lab, &[NAME]);
    run(async {
        let (port, asked) = proxy(front.port()).await;
        let mut config = config(&format!("https://{NAME}"));
        config.ca_bundle = Some(bundle);
        config.proxies = Proxies::new("", &format!("http://me:pass@127.0.0.1:{port}"), "");
        let client = client_of(&lab, config).await;
        let object = described(&client, KEY).await;
        for _ in 0..3 {
            check_bytes(&lab, KEY, 0, &read(&client, &object, (0, SIZE)).await.unwrap());
        }
        let asked = asked.lock().unwrap();
        assert!(!asked.is_empty());
        for (line, authorization) in asked.iter() {
            assert_eq!(line, &format!("CONNECT {NAME}:443 HTTP/1.1"));
            assert_eq!(authorization.as_deref(), Some("Basic bWU6cGFzcw=="));
        }
    });
}

#[test]
fn a_store_that_is_excepted_is_not_asked_by_the_proxy() {
    let lab = lab();
    run(async {
        let (port, asked) = proxy(lab_port(&lab)).await;
        let mut config = config(&format!("http://{NAME}"));
        config.retry.attempts_max = 1;
        config.proxies = Proxies::new(&format!("http://127.0.0.1:{port}"), "", ".test");
        let error = client_of(&lab, config).await.probe("").await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        assert_eq!(asked.lock().unwrap().len(), 0);
    });
}

#[test]
fn a_proxy_that_is_not_there_is_named() {
    let lab = lab();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    run(async {
        for scheme in ["http", "https"] {
            let mut config = config(&format!("{scheme}://{NAME}"));
            config.retry.attempts_max = 1;
            let proxy = format!("http://me:pass@127.0.0.1:{port}");
            config.proxies = Proxies::new(&proxy, &proxy, "");
            let error = client_of(&lab, config).await.probe("").await.unwrap_err().to_string();
            assert!(error.contains(&format!("by the proxy http://127.0.0.1:{port}")), "{error}");
            assert!(!error.contains("pass"), "{error}");
        }
    });
}

#[test]
fn a_proxy_that_refuses_the_tunnel_is_told_from_a_store_that_refuses() {
    let lab = lab();
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
                drop(client.write_all(answer).await);
                drop(client.read_u8().await);
            }
        });
        let mut config = config(&format!("https://{NAME}"));
        config.retry.attempts_max = 1;
        config.proxies = Proxies::new("", &format!("http://127.0.0.1:{port}"), "");
        let error = client_of(&lab, config).await.probe("").await.unwrap_err().to_string();
        assert!(error.contains("the proxy refuses to connect") && error.contains("407"), "{error}");
    });
}
