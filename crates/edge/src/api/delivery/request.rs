//! A delivery call as callers send it (TARGET_API §1), read without copying. What is not named here is ignored; what is
//! named must be of its type, and `null` is as good as nothing.

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use crate::api::visit::{Fields, MAX_SAFE_INTEGER, Object, Text};

/// What must be an object and is not looked into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Opaque {}

type Optional<T> = Option<Object<T>>;
type List<T> = Option<Vec<Object<T>>>;

/// A number, in every way that JSON can write one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Number(pub(super) f64);

/// A whole number; JavaScript may write it as a float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole(pub(super) i64);

/// The body.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DeliveryRequest<'a> {
    #[serde(borrow)]
    pub(super) request_id: Option<Text<'a>>,
    #[serde(borrow)]
    impression_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) id: Optional<Id<'a>>,
    #[serde(borrow)]
    property: Optional<Property<'a>>,
    trace: Optional<Opaque>,
    #[serde(borrow)]
    pub(super) context: Optional<Context<'a>>,
    experience_cloud: Optional<Opaque>,
    #[serde(borrow)]
    pub(super) execute: Optional<Execute<'a>>,
    #[serde(borrow)]
    pub(super) prefetch: Optional<Prefetch<'a>>,
    #[serde(borrow)]
    pub(super) notifications: List<Notification<'a>>,
    qa_mode: Optional<Opaque>,
    preview: Optional<Opaque>,
    telemetry: Optional<Opaque>,
}

/// What the visitor is called.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Id<'a> {
    #[serde(borrow)]
    pub(super) tnt_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) third_party_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) marketing_cloud_visitor_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) customer_ids: List<CustomerId<'a>>,
    /// Not the vendor's: see `api::identity`.
    #[serde(borrow)]
    pub(super) identity_signature: Option<Fields<'a>>,
}

/// A customer id. Only one in state `authenticated` counts, whatever other states there are or will be.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct CustomerId<'a> {
    #[serde(borrow)]
    pub(super) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) integration_code: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) authenticated_state: Option<Text<'a>>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Property<'a> {
    #[serde(borrow)]
    token: Option<Text<'a>>,
}

/// Where and how it happened.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Context<'a> {
    #[serde(borrow)]
    pub(super) channel: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) user_agent: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) address: Optional<Address<'a>>,
    #[serde(borrow)]
    pub(super) geo: Optional<Geo<'a>>,
    pub(super) time_offset_in_minutes: Option<Number>,
    screen: Optional<Size>,
    window: Optional<Size>,
    #[serde(borrow)]
    pub(super) browser: Optional<Browser<'a>>,
    mobile_platform: Optional<Opaque>,
    application: Optional<Opaque>,
    client_hints: Optional<Opaque>,
    pub(super) beacon: Option<bool>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Address<'a> {
    #[serde(borrow)]
    pub(super) url: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) referring_url: Option<Text<'a>>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Geo<'a> {
    #[serde(borrow)]
    pub(super) ip_address: Option<Text<'a>>,
    pub(super) latitude: Option<Number>,
    pub(super) longitude: Option<Number>,
    #[serde(borrow)]
    pub(super) country_code: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) state_code: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) city: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) zip: Option<Text<'a>>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Size {
    width: Option<Number>,
    height: Option<Number>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Browser<'a> {
    #[serde(borrow)]
    pub(super) host: Option<Text<'a>>,
}

/// To be shown now.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Execute<'a> {
    #[serde(borrow)]
    pub(super) page_load: Optional<PageLoad<'a>>,
    #[serde(borrow)]
    pub(super) mboxes: List<Mbox<'a>>,
}

/// To be shown later.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Prefetch<'a> {
    #[serde(borrow)]
    pub(super) page_load: Optional<PageLoad<'a>>,
    #[serde(borrow)]
    pub(super) mboxes: List<Mbox<'a>>,
    #[serde(borrow)]
    pub(super) views: List<View<'a>>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Order<'a> {
    #[serde(borrow)]
    pub(super) id: Option<Text<'a>>,
    pub(super) total: Option<Number>,
    #[serde(borrow)]
    pub(super) purchased_product_ids: Option<Vec<Text<'a>>>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Product<'a> {
    #[serde(borrow)]
    pub(super) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) category_id: Option<Text<'a>>,
}

/// What any part of a call may carry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Details<'r, 'a> {
    pub(super) address: Option<&'r Address<'a>>,
    pub(super) parameters: Option<&'r Fields<'a>>,
    pub(super) profile_parameters: Option<&'r Fields<'a>>,
    pub(super) order: Option<&'r Order<'a>>,
    pub(super) product: Option<&'r Product<'a>>,
}

/// A part of a call: what any may carry, and fields of its own. Written out rather than flattened: flattening copies.
macro_rules! part {
    ($(#[$doc:meta])* $name:ident { $($(#[$field:meta])* $own:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub(super) struct $name<'a> {
            #[serde(borrow)]
            address: Optional<Address<'a>>,
            #[serde(borrow)]
            parameters: Option<Fields<'a>>,
            #[serde(borrow)]
            profile_parameters: Option<Fields<'a>>,
            #[serde(borrow)]
            order: Optional<Order<'a>>,
            #[serde(borrow)]
            product: Optional<Product<'a>>,
            $($(#[$field])* pub(super) $own: $type,)*
        }

        impl<'a> $name<'a> {
            pub(super) fn details(&self) -> Details<'_, 'a> {
                Details {
                    address: inner(&self.address),
                    parameters: self.parameters.as_ref(),
                    profile_parameters: self.profile_parameters.as_ref(),
                    order: inner(&self.order),
                    product: inner(&self.product),
                }
            }
        }
    };
}

part! {
    /// The page.
    PageLoad {}
}
part! {
    /// A named place on a page.
    Mbox {
        index: Option<Whole>,
        #[serde(borrow)]
        name: Option<Text<'a>>,
    }
}
part! {
    /// A state of an app of one page.
    View {
        #[serde(borrow)]
        name: Option<Text<'a>>,
        #[serde(borrow)]
        key: Option<Text<'a>>,
    }
}
part! {
    /// What was shown or clicked.
    Notification {
        #[serde(borrow)]
        id: Option<Text<'a>>,
        #[serde(borrow, rename = "type")]
        kind: Option<Text<'a>>,
        timestamp: Option<Whole>,
        #[serde(borrow)]
        mbox: Optional<Named<'a>>,
        #[serde(borrow)]
        view: Optional<Named<'a>>,
        page_load: Optional<Opaque>,
        #[serde(borrow)]
        tokens: Option<Vec<Text<'a>>>,
        #[serde(borrow)]
        impression_id: Option<Text<'a>>,
    }
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Named<'a> {
    #[serde(borrow)]
    pub(super) name: Option<Text<'a>>,
}

/// The object, if it is there.
pub(super) fn inner<T>(object: &Option<Object<T>>) -> Option<&T> {
    object.as_ref().map(|Object(value)| value)
}

/// The objects of a list; none if it is not there.
pub(super) fn each<T>(list: &Option<Vec<Object<T>>>) -> impl ExactSizeIterator<Item = &T> {
    list.as_deref().unwrap_or_default().iter().map(|Object(value)| value)
}

/// The text, if it is there and says something.
pub(super) fn said<'r>(text: &'r Option<Text<'_>>) -> Option<&'r str> {
    text.as_ref().map(|Text(text)| &**text).filter(|text| !text.is_empty())
}

impl<'a> DeliveryRequest<'a> {
    /// What its parts carry, in the order in which they are taken.
    pub(super) fn details(&self) -> impl Iterator<Item = Details<'_, 'a>> {
        let (execute, prefetch) = (inner(&self.execute), inner(&self.prefetch));
        let page = execute.and_then(|execute| inner(&execute.page_load)).map(PageLoad::details);
        let mboxes = execute.into_iter().flat_map(|execute| each(&execute.mboxes)).map(Mbox::details);
        let later = prefetch.and_then(|prefetch| inner(&prefetch.page_load)).map(PageLoad::details);
        let mboxes_later = prefetch.into_iter().flat_map(|prefetch| each(&prefetch.mboxes)).map(Mbox::details);
        let views = prefetch.into_iter().flat_map(|prefetch| each(&prefetch.views)).map(View::details);
        let notifications = each(&self.notifications).map(Notification::details);
        page.into_iter().chain(mboxes).chain(later).chain(mboxes_later).chain(views).chain(notifications)
    }

    /// The ids; without the field there are none.
    pub(super) fn ids(&self) -> Option<&Id<'a>> {
        inner(&self.id)
    }
}

impl CustomerId<'_> {
    pub(super) fn is_authenticated(&self) -> bool {
        said(&self.authenticated_state) == Some("authenticated")
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NumberVisitor;
        impl Visitor<'_> for NumberVisitor {
            type Value = Number;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number")
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Number, E> {
                Ok(Number(number as f64))
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number as f64))
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<Number, E> {
                Ok(Number(number))
            }
        }
        from.deserialize_any(NumberVisitor)
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct WholeVisitor;
        impl Visitor<'_> for WholeVisitor {
            type Value = Whole;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a whole number")
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Whole, E> {
                i64::try_from(number).map(Whole).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Whole, E> {
                Ok(Whole(number))
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<Whole, E> {
                let is_whole = number.fract() == 0.0 && number.abs() < MAX_SAFE_INTEGER;
                if is_whole {
                    Ok(Whole(number as i64))
                } else {
                    Err(E::invalid_value(Unexpected::Float(number), &self))
                }
            }
        }
        from.deserialize_any(WholeVisitor)
    }
}
