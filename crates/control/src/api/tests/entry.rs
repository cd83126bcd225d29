//! Who is let in: credentials in all their forms, sessions with their token, throttling.

use base64::Engine as _;

use super::*;
use crate::session::Presence;

async fn status(scene: &Scene, call: Call) -> u16 {
    call.send(&scene.router).await.status
}

#[tokio::test]
async fn passwords_and_keys_open_and_nothing_else_does() {
    let scene = scene().await;
    let key = scene.stage.key("*", Role::Observer).await;
    let token = scene.stage.plane.generate(&Principal::system(), "demo").await.unwrap().secret;
    let get = || Call::get("/v1/clients");
    assert_eq!(status(&scene, get().basic("ada", PASSWORD)).await, 200);
    assert_eq!(status(&scene, get().key(&key)).await, 200);
    assert_eq!(status(&scene, get().with("authorization", format!("bearer  {}", *key))).await, 200);
    assert_eq!(status(&scene, get().with("x-api-key", &**key)).await, 200);

    let twice = get().key(&key).key(&key).send(&scene.router).await;
    assert_eq!((twice.status, twice.header("www-authenticate")), (400, ""), "{}", twice.body);
    assert_eq!(status(&scene, get().key(&key).with("x-api-key", &**key)).await, 400);
    assert_eq!(status(&scene, get().with("x-api-key", &**key).with("x-api-key", "other")).await, 400);

    let basic = |text: &[u8]| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
    for value in [
        String::new(),
        "Basic".into(),
        "Basic ????".into(),
        basic(b"no colon"),
        basic(b"ada:\xff\xff"),
        basic(b":"),
        basic(b"ada:"),
        basic(b"Ada:seven green bicycles"),
        format!("Digest {}", *key),
        (*key).clone(),
        format!("Bearer {}", &key[..key.len() - 1]),
        format!("Bearer {}", token.reveal()),
        format!("Bearer {}", "x".repeat(60_000)),
    ] {
        let answer = get().with("authorization", value.as_str()).send(&scene.router).await;
        assert_eq!(answer.status, 401, "{value:.80}: {}", answer.body);
        assert!(answer.header("www-authenticate").starts_with("Basic realm=\"cameo\""), "{value:.80}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert!(!answer.body.to_string().contains(PASSWORD) && !answer.body.to_string().contains(token.reveal()));
    }

    // What was sent is wrong, rather than missing; of name and password it is not told which.
    let told = async |call: Call| call.send(&scene.router).await.body.to_string();
    let (name, password) = (told(get().basic("adn", PASSWORD)).await, told(get().basic("ada", "not hers")).await);
    assert!(name == password && name.contains("the name or the password is wrong"), "{name} {password}");
    assert!(told(get().with("x-api-key", "xx")).await.contains("this admin key is not known"));
    assert!(told(get()).await.contains("sign in with name and password"));
}

#[tokio::test]
async fn a_session_changes_something_only_with_its_token() {
    let scene = scene().await;
    let plane = &scene.stage.plane;
    let from = "10.0.0.9".parse().unwrap();
    let id = plane.sign_in("ada", Zeroizing::new(PASSWORD.into()), from).await.unwrap();
    let other = plane.sign_in("bob", Zeroizing::new(PASSWORD.into()), from).await.unwrap();
    let csrf = |id: &str| plane.session(id, Presence::Acting, from).unwrap().1.csrf.to_string();
    let cookie = format!("theme=dark; cameo_session={}", *id);
    let change =
        || Call::new(Method::PATCH, "/v1/demo/settings").json(&json!({"lifetimeDays": 30})).with("cookie", &cookie);
    assert_eq!(status(&scene, Call::get("/v1/clients").with("cookie", &cookie)).await, 200);
    let before = scene.writes();
    for wrong in [change(), change().with("x-csrf-token", ""), change().with("x-csrf-token", csrf(&other))] {
        assert_eq!(status(&scene, wrong).await, 403);
    }
    assert_eq!(scene.writes(), before);
    assert_eq!(status(&scene, change().with("x-csrf-token", csrf(&id))).await, 200);
    plane.sign_out(&id);
    assert_eq!(status(&scene, Call::get("/v1/clients").with("cookie", &cookie)).await, 401);
}

#[tokio::test]
async fn a_page_of_another_site_cannot_use_the_password_that_a_browser_remembers() {
    let scene = scene().await;
    let key = scene.stage.key("demo", Role::Approver).await;
    let generate = || Call::post("/demo/target/authentication/token").with("host", "cameo.test:8080");
    let with_password = || generate().basic("ada", PASSWORD);
    let before = scene.writes();
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.test"),
        ("origin", "http://cameo.test"),
        ("origin", "null"),
    ] {
        let answer = with_password().with(name, value).send(&scene.router).await;
        assert_eq!(
            (answer.status, &answer.body["errors"][0]["errorCode"]),
            (403, &json!("Forbidden")),
            "{name}: {value}"
        );
    }
    assert_eq!(scene.writes(), before);
    let get = Call::get("/v1/clients").basic("ada", PASSWORD).with("origin", "https://evil.test");
    assert_eq!(
        status(&scene, get).await,
        200,
        "reading changes nothing, and the browser keeps the answer from the page"
    );
    assert_eq!(
        status(&scene, generate().key(&key).with("origin", "https://evil.test")).await,
        201,
        "keys are not remembered"
    );
    assert_eq!(status(&scene, with_password().with("origin", "http://Cameo.test:8080")).await, 201);
    assert_eq!(status(&scene, with_password().with("sec-fetch-site", "none").with("origin", "null")).await, 201);
}

#[tokio::test]
async fn guessing_is_answered_with_a_time_to_wait() {
    let scene = scene().await;
    let guess = |n: u32| Call::get("/v1/clients").basic("ada", &format!("guess number {n}"));
    for n in 0..10 {
        assert_eq!(status(&scene, guess(n)).await, 401, "{n}");
    }
    let answer = guess(10).send(&scene.router).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, "31"), "{}", answer.body);
    assert_eq!(status(&scene, Call::get("/v1/clients").basic("ada", PASSWORD)).await, 429, "the right one too");
    assert_eq!(status(&scene, Call::get("/v1/clients").basic("bob", PASSWORD)).await, 200);
    scene.stage.clock.forward(Duration::from_secs(31));
    assert_eq!(status(&scene, Call::get("/v1/clients").basic("ada", PASSWORD)).await, 200);
    let refused = scene.stage.audit.lines().iter().filter(|line| *line == "ada sign.in - refused").count();
    assert_eq!(refused, 10, "what was not even looked at does not flood the audit log");
}
