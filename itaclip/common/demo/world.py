"""The vocabulary of the bundled demo: the classes of the drawn town and their words in captions."""

from __future__ import annotations

from dataclasses import dataclass

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (205, 42, 40),
    "orange": (240, 130, 35),
    "yellow": (243, 205, 50),
    "green": (52, 150, 70),
    "blue": (45, 95, 205),
    "purple": (130, 70, 175),
    "pink": (243, 150, 185),
    "white": (240, 238, 232),
    "black": (48, 48, 54),
    "grey": (142, 145, 150),
    "brown": (128, 82, 50),
}


@dataclass(frozen=True)
class Kind:
    """One class of the town.

    Attributes:
        names: synonyms in the class file and in training captions.
        held_out: two synonyms that never occur in training captions.
        saying: a description that captions use occasionally.
        colors: its possible colours, keys of `COLORS`; empty for stuff.
        unseen_color: one of these colours that never occurs in training scenes.
        stuff: whether it is stuff without a shape of its own, which captions name without an article.
    """

    names: tuple[str, ...]
    held_out: tuple[str, str]
    saying: str
    colors: tuple[str, ...] = ()
    unseen_color: str | None = None
    stuff: bool = False


# Class 0 is the background: objects of no other class.
KINDS: tuple[Kind, ...] = (
    Kind(("background", "cardboard box", "blank billboard"), ("packing box", "empty billboard"),
         "a plain box or an empty board"),
    Kind(("sky", "blue sky"), ("open sky", "sky by day"), "the bright air high above", stuff=True),
    Kind(("night sky", "starry sky"), ("sky with stars", "starry night sky"),
         "dark air with small bright stars", stuff=True),
    Kind(("cloud", "white cloud"), ("puffy cloud", "cloud bank"), "a soft white puff in the air"),
    Kind(("sea", "ocean"), ("open sea", "ocean water"), "deep blue salt water with waves", stuff=True),
    Kind(("pond", "lily pond"), ("garden pond", "quiet pond"), "still green water with round floating leaves"),
    Kind(("sand", "sandy beach"), ("beach sand", "golden sand"), "pale yellow grains by the shore", stuff=True),
    Kind(("grass", "lawn"), ("green grass", "mown lawn"), "short green blades on the ground", stuff=True),
    Kind(("road", "street"), ("paved road", "city street"), "dark asphalt with white lines"),
    Kind(("mountain", "rocky mountain"), ("mountain range", "high mountain"), "a huge grey peak of rock"),
    Kind(("snow", "snowy ground"), ("fresh snow", "deep snow"), "a cold white layer of winter", stuff=True),
    Kind(("brick wall", "bricks"), ("wall of bricks", "old brick wall"), "red blocks in rows with pale mortar"),
    Kind(("wooden wall", "planks"), ("wall of planks", "plank wall"), "brown boards lying one above another"),
    Kind(("house", "cottage"), ("family house", "country cottage"), "a building with a roof, a door and windows",
         ("white", "yellow", "blue", "pink", "red"), "pink"),
    Kind(("tree", "oak tree"), ("leafy tree", "shady oak tree"), "a trunk with a round crown of leaves"),
    Kind(("fir", "fir tree"), ("tall fir", "evergreen fir"), "a dark pointed conifer with needles"),
    Kind(("car", "taxi"), ("motor car", "taxi cab"), "a small vehicle with four wheels for a family",
         ("red", "yellow", "blue", "white", "black", "green"), "green"),
    Kind(("bus", "city bus"), ("coach bus", "school bus"), "a long vehicle with a row of windows for passengers",
         ("red", "yellow", "orange", "green", "blue"), "blue"),
    Kind(("boat", "sailing boat"), ("fishing boat", "boat with sails"),
         "a hull with a mast and white cloth in the wind",
         ("red", "white", "blue", "green", "yellow"), "yellow"),
    Kind(("sun", "shining sun"), ("sun disc", "glowing sun"), "the round yellow light of day"),
    Kind(("moon", "full moon"), ("crescent moon", "pale moon"), "the round pale light of the night"),
    Kind(("bird", "flying bird"), ("song bird", "bird with wings"), "an animal with feathers, a beak and wings",
         ("white", "blue", "black", "red"), "red"),
    Kind(("cat", "kitten"), ("pet cat", "playful kitten"), "a furry pet with pointed ears and whiskers",
         ("orange", "black", "white", "grey"), "grey"),
    Kind(("dog", "puppy"), ("pet dog", "guard dog"), "a pet with floppy ears that barks",
         ("brown", "white", "black"), "black"),
    Kind(("flower", "blossom"), ("garden flower", "blooming flower"), "petals around a yellow centre on a stem",
         ("red", "yellow", "pink", "purple", "white"), "purple"),
    Kind(("fence", "picket fence"), ("garden fence", "fence of pickets"), "upright pointed pales in a row",
         ("white", "brown", "green"), "green"),
    Kind(("person", "pedestrian"), ("standing person", "young person"), "somebody with a head, arms and legs",
         ("red", "blue", "yellow", "green"), "yellow"),
    Kind(("parasol", "beach umbrella"), ("striped parasol", "garden umbrella"), "a round shade of cloth on a pole",
         ("red", "blue", "yellow", "green"), "green"),
    Kind(("balloon", "hot-air balloon"), ("floating balloon", "gas balloon"),
         "a huge round bag of warm air with a basket",
         ("red", "yellow", "blue", "orange", "purple"), "purple"),
)  # fmt: skip

CLASSES = len(KINDS)
CLASS_ID: dict[str, int] = {kind.names[0]: number for number, kind in enumerate(KINDS)}
