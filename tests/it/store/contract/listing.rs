//! Lists: order, prefixes and pages.

use std::collections::BTreeSet;

use remora::types::Key;

use super::{Shared, put};

pub(super) async fn lists_in_key_order_by_prefix_and_pages(store: Shared) {
    let names = ["app", "app-1", "app!", "app0", "100%", "%2F", "with space", "é", "日本", "a", "b/", "ap/one", "ap/two/2", "z\u{10ffff}"];
    lists(store, &names).await;
}

pub(super) async fn lists_names_below_names(store: Shared) {
    lists(store, &["app", "app/next", "app/next/2", "app-1", "app0", "dir", "dir/m", "dir/z"]).await;
}

async fn lists(store: Shared, names: &[&str]) {
    // A folder whose keys sort between names that look like its own entries.
    let deeper = [Key::new("odd/ap/", "more"), Key::new("odd/ap/", "zzz"), Key::new("odd/ap/three/", "x")];
    let outside = [Key::new("", "top"), Key::new("odder/", "x"), Key::new("od/", "x")];
    let odd: BTreeSet<String> = names.iter().map(|name| Key::new("odd/", name)).chain(deeper.clone()).map(|key| key.to_string()).collect();
    for key in names.iter().map(|name| Key::new("odd/", name)).chain(deeper).chain(outside) {
        put(&store, &key, key.as_str()).await;
    }
    let odd: Vec<String> = odd.into_iter().collect();
    for limit in [1, 2, 3, 7, odd.len(), odd.len() + 1, 1000] {
        let mut listed: Vec<String> = Vec::new();
        loop {
            let page = store.list("odd/", listed.last().map(String::as_str), limit).await.unwrap();
            assert!(page.entries.len() <= limit);
            for (key, meta) in page.entries {
                assert_eq!(meta.size, key.len() as u64);
                listed.push(key);
            }
            assert_eq!(page.more, listed.len() < odd.len(), "{limit}: {listed:?}");
            if !page.more {
                break;
            }
        }
        assert_eq!(listed, odd);
    }
    for prefix in ["", "o", "odd", "odd/a", "odd/ap", "odd/ap/", "odd/ap/t", "odd/app", "odd/%", "odd/é", "top", "nothing", "odd/ap/one/"]
    {
        let all = store.list("", None, 1000).await.unwrap().entries;
        let expected: Vec<_> = all.into_iter().filter(|(key, _)| key.starts_with(prefix)).collect();
        assert_eq!(store.list(prefix, None, 1000).await.unwrap().entries, expected, "{prefix}");
    }
    // `after` need not be a key.
    let page = store.list("odd/ap", Some("odd/ap/"), 1).await.unwrap();
    assert_eq!((page.entries[0].0.as_str(), page.more), ("odd/ap/more", true));
    assert_eq!(page.entries[0].1.etag, store.head(&Key::new("odd/ap/", "more")).await.unwrap().etag);
}
