//! A producer that publishes a visit over NATS; README shows it from here on.

use async_nats::ConnectOptions;
use cameo_client::{Visit, nats::Producer};
use std::env::var;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = ConnectOptions::with_user_and_password("producer".into(), var("NATS_PASSWORD")?);
    let nats = options.custom_inbox_prefix("_INBOX_producer").connect(var("NATS_URL")?).await?;
    let visit = Visit::of_tnt_id("a1").session_id("s1").profile("country", "france").event_id("order-18");
    let stored = Producer::new(nats, "demo")?.publish(&visit).await?; // stored by NATS, or an error
    println!("number {}{}", stored.sequence, if stored.duplicate { ", known already" } else { "" });
    Ok(())
}
