//! Listings, page by page.

use tenderfs_lab::{Endless, Fault, FaultRule, Malformation, Operation};
use tenderfs_s3client::{AnswerFault, ListPage, ListRequest, ListWalk};

use super::*;

/// A lab with these keys and nothing else.
fn filled(keys: &[&str]) -> Lab {
    let lab = Lab::builder().start().unwrap();
    lab.create_bucket(BUCKET).unwrap();
    for key in keys {
        lab.put(BUCKET, key, Content::from(b"x".to_vec())).unwrap();
    }
    lab
}

async fn pages(client: &Client, request: ListRequest) -> Result<Vec<ListPage>, Error> {
    let mut walk = ListWalk::new(request);
    let mut pages = Vec::new();
    loop {
        let page = client.list(walk.request()).await?;
        let more = walk.advance(&page)?;
        pages.push(page);
        if !more {
            return Ok(pages);
        }
    }
}

fn keys(pages: &[ListPage]) -> Vec<&str> {
    pages.iter().flat_map(|page| &page.objects).map(|object| object.key.as_str()).collect()
}

#[test]
fn every_page_is_followed() {
    let names: Vec<String> = (0..25).map(|n| format!("k{n:03}")).collect();
    let lab = filled(&names.iter().map(String::as_str).collect::<Vec<_>>());
    run(async {
        let client = client(&lab).await;
        let request = ListRequest { keys_max: Some(10), ..ListRequest::default() };
        let pages = pages(&client, request).await.unwrap();
        assert_eq!(pages.len(), 3);
        assert_eq!(keys(&pages), names);
        let after = ListRequest { start_after: Some("k020".into()), ..ListRequest::default() };
        assert_eq!(keys(&[client.list(&after).await.unwrap()]), &names[21..]);
    });
}

#[test]
fn folders_are_folded() {
    let lab = filled(&["a", "d/x", "d/y/z", "e/f", "d e+%/x", "zz"]);
    run(async {
        let client = client(&lab).await;
        let root = ListRequest { delimiter: true, ..ListRequest::default() };
        let page = client.list(&root).await.unwrap();
        assert_eq!(keys(std::slice::from_ref(&page)), ["a", "zz"]);
        assert_eq!(page.common_prefixes, ["d e+%/", "d/", "e/"]);
        for (prefix, objects, prefixes) in [
            ("d/", vec!["d/x"], vec!["d/y/"]),
            ("d e+%/", vec!["d e+%/x"], vec![]),
            ("nothing/", vec![], vec![]),
        ] {
            let request = ListRequest { prefix: prefix.into(), ..root.clone() };
            let page = client.list(&request).await.unwrap();
            assert_eq!(page.common_prefixes, prefixes, "{prefix}");
            assert_eq!(keys(&[page]), objects, "{prefix}");
        }
    });
}

#[test]
fn a_listing_says_the_same_as_a_head() {
    let lab = lab();
    run(async {
        let client = client(&lab).await;
        let listed = client.list(&ListRequest::default()).await.unwrap().objects.remove(0);
        let head = described(&client, KEY).await;
        assert_eq!((&listed.key, &listed.etag), (&head.key, &head.etag));
        assert_eq!(listed.size_bytes, head.size_bytes);
    });
}

#[test]
fn odd_keys_are_listed_as_they_are() {
    let odd = ["a b", "a%20b", "a&b<c>", "a+b", "a//b", "c\u{1}\n", "ü/日本", "\u{fffd}"];
    let lab = filled(&odd);
    run(async {
        let pages = pages(&client(&lab).await, ListRequest::default()).await.unwrap();
        let mut sorted = odd;
        sorted.sort_unstable();
        assert_eq!(keys(&pages), sorted);
    });
}

#[test]
fn listings_that_cannot_be_are_refused_in_time() {
    let lab = filled(&["a", "b"]);
    run(async {
        let client = client(&lab).await;
        for malformation in [
            Malformation::CutOff,
            Malformation::NotXml,
            Malformation::OtherRoot,
            Malformation::DeeplyNested,
            Malformation::EntityBomb,
        ] {
            let fault = Fault::MalformedListing(malformation);
            lab.faults().add(FaultRule::new(fault).operation(Operation::List));
            let mark = lab.ledger().mark();
            let error = client.list(&ListRequest::default()).await.unwrap_err();
            assert!(
                matches!(error, Error::WrongAnswer { fault: AnswerFault::Listing { .. } }),
                "{malformation:?}: {error}"
            );
            assert_eq!(lab.ledger().since(mark).len(), ATTEMPTS as usize, "{malformation:?}");
            lab.faults().clear();
        }
        // A listing that is wrong once is asked for again.
        let fault = Fault::MalformedListing(Malformation::CutOff);
        lab.faults().add(FaultRule::new(fault).times(1));
        assert!(client.list(&ListRequest::default()).await.is_ok());
    });
}

#[test]
fn what_a_listing_lacks_does_not_hide_the_rest() {
    let lab = filled(&["a", "b"]);
    run(async {
        let client = client(&lab).await;
        let listed = |malformation| {
            lab.faults().clear();
            lab.faults().add(FaultRule::new(Fault::MalformedListing(malformation)));
            let client = client.clone();
            async move { client.list(&ListRequest::default()).await.unwrap() }
        };
        let page = listed(Malformation::NoEtags).await;
        assert!(page.objects.iter().all(|object| object.etag.is_empty()));
        assert_eq!(keys(&[page]), ["a", "b"]);
        let skipped = || counters(&client).listing_entries_skipped.get();
        assert_eq!(skipped(), 0);
        let page = listed(Malformation::BadSizes).await;
        assert_eq!(page.objects.len() as u64 + skipped(), 2);
        assert!(skipped() > 0);
        let before = skipped();
        let page = listed(Malformation::NotUtf8).await;
        assert!(!page.objects.is_empty() || skipped() > before);
    });
}

#[test]
fn endless_listings_end() {
    let lab = filled(&["a", "b"]);
    run(async {
        let client = client(&lab).await;
        for endless in [Endless::SameToken, Endless::SamePage, Endless::EmptyPages] {
            lab.faults().clear();
            lab.faults().add(FaultRule::new(Fault::EndlessListing(endless)));
            let error = pages(&client, ListRequest::default()).await.unwrap_err();
            assert!(
                matches!(error, Error::WrongAnswer { fault: AnswerFault::Continuation { .. } }),
                "{endless:?}: {error}"
            );
        }
    });
}
