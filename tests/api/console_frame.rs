//! The frame around every page: fragments, assets, help, preferences, and errors in their place.

use actchain::http::console_routes;
use reqwest::header::HeaderMap;

use crate::support::browser::{Browser, fields, form};
use crate::support::http;
use crate::support::world::World;

fn fragment() -> HeaderMap {
    fields(&[("hx-request", "true")])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fragment_is_the_page_without_its_frame() {
    let world = World::new().await;
    let mut browser = Browser::of_operator(&world.server).await;
    let whole = browser.get("/console/delegations").await;
    assert_eq!(whole.header("vary"), Some("HX-Request"));
    let part = browser.get_with("/console/delegations", fragment()).await;
    assert_eq!((part.status, part.header("vary")), (200, Some("HX-Request")));
    assert!(part.text.starts_with("<title>Delegations"), "{}", part.text);
    for frame in ["<html", "<nav", "<header", "<script"] {
        assert!(whole.text.contains(frame) && !part.text.contains(frame), "{frame}");
    }
    assert_eq!(whole.header("content-security-policy"), part.header("content-security-policy"));
    let csp = whole.header("content-security-policy").unwrap();
    assert!(csp.contains("require-trusted-types-for 'script'; trusted-types actchain"), "{csp}");
    assert!(!csp.contains("unsafe"), "{csp}");

    // Signed out, a fragment says so in its place; a page leads to the sign-in.
    let mut stranger = Browser::new(&world.server);
    let part = stranger.get_with("/console/delegations?state=active", fragment()).await;
    assert_eq!(part.status, 401);
    assert!(part.text.contains("next=%2Fconsole%2Fdelegations%3Fstate%3Dactive"), "{}", part.text);
    assert_eq!(stranger.get("/console/delegations").await.status, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn assets_are_compressed_and_kept_for_ever_under_their_digest() {
    let world = World::new().await;
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get("/console").await;
    let names = page.text.split(['"']).filter(|text| text.contains("/console/assets/"));
    let names: Vec<&str> = names.collect();
    assert_eq!(names.len(), 2, "a first visit is three requests: {names:?}");
    let mut sum = 0;
    for name in names {
        let get = || http().get(format!("{}{name}", world.server.base));
        let plain = get().header("accept-encoding", "identity").send().await.unwrap();
        assert!(plain.headers()["cache-control"].to_str().unwrap().contains("immutable"));
        assert!(plain.headers().get("content-encoding").is_none());
        let plain = plain.bytes().await.unwrap();
        let packed = get().header("accept-encoding", "gzip").send().await.unwrap();
        assert_eq!(
            (&packed.headers()["content-encoding"], &packed.headers()["vary"]),
            (&"gzip".parse().unwrap(), &"Accept-Encoding".parse().unwrap())
        );
        let packed = packed.bytes().await.unwrap();
        assert!(packed.len() < plain.len() / 2);
        sum += packed.len();
    }
    assert!(sum <= 32 * 1024, "{sum} bytes");
    let other =
        http().get(format!("{}/console/assets/console.0.js", world.server.base)).send().await.unwrap();
    assert_eq!(other.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn help_names_every_place_that_the_navigation_has() {
    let world = World::new().await;
    let mut browser = Browser::of_operator(&world.server).await;
    let help = browser.get("/console/help").await;
    assert_eq!(help.status, 200);
    let (_, navigation) = help.text.split_once("<nav").unwrap();
    let (navigation, page) = navigation.split_once("</nav>").unwrap();
    let places: Vec<&str> =
        navigation.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(places.len() > 5);
    for place in places {
        assert!(page.contains(&format!("href=\"{place}\"")), "{place}");
        assert!(console_routes().any(|(method, path, _)| method == "GET" && fits(path, place)), "{place}");
    }
}

fn fits(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
    pattern.len() == path.len()
        && pattern.iter().zip(&path).all(|(wanted, own)| wanted == own || wanted.starts_with('{'))
}

#[tokio::test(flavor = "multi_thread")]
async fn preferences_are_kept_by_the_browser_and_only_known_values_reach_a_page() {
    let world = World::new().await;
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get("/console/me").await;
    let chosen = form(&page, "/console/me/preferences")
        .with("actchain-zone", "local")
        .with("actchain-density", "compact")
        .with("actchain-keys", "off")
        .with("actchain-theme", "dark");
    let page = browser.submit(&chosen).await;
    for attribute in
        ["data-zone=\"local\"", "data-density=\"compact\"", "data-keys=\"off\"", "data-theme=\"dark\""]
    {
        assert!(page.text.contains(attribute), "{attribute}");
    }
    for name in ["actchain-zone", "actchain-density", "actchain-keys", "actchain-theme"] {
        browser.cookies.insert(name.to_owned(), "\"><script>".to_owned());
    }
    let page = browser.get("/console/me").await;
    assert!(!page.text.contains("<script>") && !page.text.contains("data-zone"), "{}", page.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_asks_for_patience_says_how_much_and_which_request_it_was() {
    let world = World::configured("[limits]\nrequests_per_second_per_client = 1\n").await;
    let mut browser = Browser::of_operator(&world.server).await;
    let mut refused = browser.get("/console").await;
    while refused.status == 200 {
        refused = browser.get("/console").await;
    }
    assert_eq!(refused.status, 429);
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!(seconds >= 1);
    let request = refused.header("x-request-id").unwrap().to_owned();
    assert!(refused.text.contains(&request), "{}", refused.text);
    assert!(refused.text.contains("Try again in"), "{}", refused.text);
}
