//! The list of batches, page by page.

use std::collections::HashSet;

use super::*;

async fn page(site: &Site, query: &str) -> (Vec<String>, Option<String>) {
    let page = site.json(&format!("/v1/demo/batches{query}")).await;
    let ids = page["batches"].as_array().unwrap().iter().map(|batch| batch["batchId"].as_str().unwrap().to_owned());
    (ids.collect(), page["next"].as_str().map(str::to_owned))
}

async fn uploaded(site: &Site, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let id = site.post(V2, &[], EXAMPLE).await.batch();
        site.settled(&id).await;
        ids.push(id);
    }
    ids.reverse();
    ids
}

#[tokio::test]
async fn pages_lead_through_all_batches_newest_first() {
    let site = Site::new();
    let all = uploaded(&site, 7).await;
    site.post("/m2/other/v2/profile/batchUpdate", &[], EXAMPLE).await.batch();
    assert_eq!(page(&site, "").await, (all.clone(), None));
    assert_eq!(page(&site, "?limit=7").await, (all.clone(), None), "no empty page follows");
    for limit in [1, 3] {
        let (mut seen, mut query) = (Vec::new(), format!("?limit={limit}"));
        loop {
            let (ids, next) = page(&site, &query).await;
            assert!((1..=limit).contains(&ids.len()));
            seen.extend(ids);
            let Some(next) = next else { break };
            assert_eq!(Some(&next), seen.last());
            query = format!("?limit={limit}&after={next}");
        }
        assert_eq!(seen, all);
    }
}

#[tokio::test]
async fn a_page_holds_a_hundred_and_what_comes_meanwhile_moves_none() {
    let site = Site::new();
    let all = uploaded(&site, 103).await;
    let (first, next) = page(&site, "").await;
    let newer = uploaded(&site, 2).await;
    let (second, end) = page(&site, &format!("?after={}", next.unwrap())).await;
    assert_eq!((first.len(), second.len(), end), (100, 3, None));
    assert_eq!([first, second].concat(), all);
    let (again, _) = page(&site, "?limit=2").await;
    assert_eq!(again, newer);
    // The batch of a cursor may be forgotten; its place is not.
    let (rest, _) = page(&site, "?after=demo-1799999999999-gone").await;
    assert_eq!(rest, Vec::<String>::new());
    let (rest, _) = page(&site, "?after=demo-1900000000000-gone").await;
    assert_eq!(rest.into_iter().collect::<HashSet<_>>().len(), 100);
}

#[tokio::test]
async fn a_wrong_page_is_refused_by_name() {
    let site = Site::new();
    for (query, says) in [
        ("limit=0", "limit must be a number from 1 to 100"),
        ("limit=101", "limit must be a number from 1 to 100"),
        ("limit=", "limit must be a number from 1 to 100"),
        ("limit=1&limit=2", "limit is given more than once"),
        ("after=", "after must be what a page gave as next"),
        ("after=demo-x-y", "after must be what a page gave as next"),
    ] {
        let reply = site.get(&format!("/v1/demo/batches?{query}")).await;
        assert_eq!(reply.status, 400, "{query}: {}", reply.text);
        assert!(reply.text.contains(says), "{query}: {}", reply.text);
    }
}
