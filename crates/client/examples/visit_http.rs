//! A producer that sends a visit over HTTP; README shows it from here on.

use cameo_client::{Client, Visit};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::new(&std::env::var("CAMEO_URL")?, "demo")?;
    let visit = Visit::of_tnt_id("a1").session_id("s1").profile("country", "france").event_id("order-20");
    let answer = client.visit(&visit).await?; // repeats by itself, as there is an event id
    println!("{} has {} visits", answer["tntId"], answer["profile"]["profileAttributes"]["visitCount"]["value"]);
    Ok(())
}
