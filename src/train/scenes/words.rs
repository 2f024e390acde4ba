//! The language of scenes.

/// An enumeration of words of the language, in the order of their numbers.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "each is the word of its name")]
        pub enum $name { $($variant),* }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$variant),*];

            /// As captions have it.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }

            /// The one of this word.
            pub fn of(word: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|one| one.word() == word)
            }
        }
    };
}

words! {
    /// What an object is.
    Shape {
        Circle = "circle", Square = "square", Triangle = "triangle", Star = "star",
        Heart = "heart", Ring = "ring", Cross = "cross", Diamond = "diamond",
    }
}

words! {
    /// What an object, or a background, is painted in.
    Colour {
        Red = "red", Orange = "orange", Yellow = "yellow", Green = "green", Cyan = "cyan", Blue = "blue",
        Purple = "purple", Pink = "pink", Brown = "brown", Black = "black", Gray = "gray", White = "white",
    }
}

words! {
    /// How large an object is; the usual size has no word.
    Extent { Usual = "", Small = "small", Large = "large" }
}

words! {
    /// What is on an object.
    Texture { Plain = "", Striped = "striped", Dotted = "dotted" }
}

words! {
    /// Where the first of two objects lies, seen from the second.
    Relation {
        LeftOf = "to the left of", RightOf = "to the right of", Above = "above", Below = "below",
    }
}

words! {
    /// Where a single object lies.
    Place {
        TopLeft = "in the top left corner", TopRight = "in the top right corner",
        BottomLeft = "in the bottom left corner", BottomRight = "in the bottom right corner",
        Centre = "in the center",
    }
}

/// What a caption may begin with.
pub const PREFIXES: [&str; 6] =
    ["a picture of", "a drawing of", "an image with", "an image of", "a photo of", "a picture with"];

/// How captions count, and how many that are.
pub const PLURALS: [(&str, usize); 3] = [("two", 2), ("three", 3), ("four", 4)];

/// A number of objects as captions say it.
pub fn numeral(count: usize) -> &'static str {
    PLURALS.iter().find(|(_, n)| *n == count).map_or("", |(word, _)| word)
}

impl Colour {
    /// Red, green and blue, 0 to 255.
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Colour::Red => [220, 40, 40],
            Colour::Orange => [245, 140, 30],
            Colour::Yellow => [250, 215, 45],
            Colour::Green => [50, 170, 75],
            Colour::Cyan => [50, 195, 215],
            Colour::Blue => [45, 90, 215],
            Colour::Purple => [140, 70, 190],
            Colour::Pink => [245, 130, 185],
            Colour::Brown => [130, 80, 45],
            Colour::Black => [20, 20, 20],
            Colour::Gray => [128, 128, 128],
            Colour::White => [245, 245, 245],
        }
    }
}

impl Relation {
    /// Whether it is one of left and right.
    pub fn is_level(self) -> bool {
        matches!(self, Relation::LeftOf | Relation::RightOf)
    }

    /// Whether the first object is the left or upper one.
    pub fn first_is_low(self) -> bool {
        matches!(self, Relation::LeftOf | Relation::Above)
    }
}

impl Place {
    /// Towards which side it lies: −1 is left or up, 1 right or down.
    pub fn direction(self) -> (f64, f64) {
        match self {
            Place::TopLeft => (-1.0, -1.0),
            Place::TopRight => (1.0, -1.0),
            Place::BottomLeft => (-1.0, 1.0),
            Place::BottomRight => (1.0, 1.0),
            Place::Centre => (0.0, 0.0),
        }
    }
}
