"""Tables of the built-in corpus: how often each state occurs, how captions are worded, and what moves people.

Strengths are in logits of one reaction: +2 multiplies the odds that a person names the emotion by about seven.
"""

__all__ = [
    "BASE_LOGITS",
    "INTERACTIONS",
    "PICTURE_EFFECTS",
    "PICTURE_SHARES",
    "PLACES",
    "RELATED_BOOST",
    "RELATED_THINGS",
    "SIGHTS",
    "SIGHT_SHARES",
    "TONES",
    "TONE_SHARES",
    "TOPICS",
    "WORD_EFFECTS",
]

PICTURE_SHARES: dict[str, dict[str, float]] = {
    "weather": {"clear": 0.3, "rain": 0.18, "storm": 0.17, "snow": 0.18, "fog": 0.17},
    "light": {"day": 0.5, "dusk": 0.25, "night": 0.25},
    "palette": {"warm": 0.34, "cool": 0.33, "grey": 0.33},
    "thing": {
        "dog": 0.14, "spider": 0.12, "house": 0.13, "heart": 0.12, "balloon": 0.12, "tomb": 0.12, "cake": 0.13,
        "flowers": 0.12,
    },
    "face": {"smile": 0.22, "frown": 0.2, "surprise": 0.19, "angry": 0.19, "nobody": 0.2},
}  # fmt: skip
"""Share of each value; the attributes of a picture are independent."""

RELATED_BOOST = 3.0
RELATED_THINGS: dict[str, tuple[str, ...]] = {
    "birthday": ("cake", "balloon"),
    "wedding": ("heart", "flowers"),
    "funeral": ("tomb",),
    "homecoming": ("house", "dog"),
    "discovery": ("spider",),
}
"""Topics `RELATED_BOOST` times likelier where the picture shows the thing: the only tie of words to picture."""

TOPICS: dict[str, tuple[str, ...]] = {
    "birthday": ("a birthday party", "a girl turning seven today", "the blowing out of candles",
                 "a table laid with presents", "a grandmother reaching her eighties", "unwrapping gifts with cousins"),
    "wedding": ("the wedding of two teachers", "a bride and her groom", "newlyweds cutting a ribbon",
                "an exchange of rings", "vows spoken under lanterns", "an engaged couple dancing"),
    "funeral": ("a funeral service", "mourners following a coffin", "the burial of a miner",
                "a last goodbye to grandfather", "a wreath for the drowned", "an obituary read aloud"),
    "hospital": ("a visit to the hospital", "a patient waiting for surgery", "a nurse changing a bandage",
                 "the doctor reading test results", "an ambulance with its siren", "a stay at the clinic"),
    "journey": ("a long train journey", "travellers crossing the mountains", "hikers on an unmarked trail",
                "a ferry leaving its harbour", "the highway to the coast", "a caravan heading south"),
    "homecoming": ("a soldier coming home", "the return of the son", "a reunion after many years",
                   "a sailor at his door", "sisters embracing once more", "exiles back in their country"),
    "match": ("the final of the championship", "a penalty in extra time", "runners near the finish line",
              "a young team in training", "a boxing bout", "a regatta between rival clubs"),
    "exam": ("an exam at school", "pupils handing in papers", "a student defending her thesis",
             "a spelling test", "homework for a strict teacher", "candidates sitting a written paper"),
    "accident": ("a car crash", "a train off the rails", "the sinking of a trawler",
                 "a bridge giving way", "a fall from the scaffold", "wreckage of a small plane"),
    "discovery": ("a door behind the bookcase", "a nameless creature in amber", "scientists opening a sealed box",
                  "a map of hidden tunnels", "footprints that nobody can explain", "a riddle carved in stone"),
    "quarrel": ("a quarrel among neighbours", "two drivers shouting", "brothers fighting over money",
                "a strike against the factory", "a thief caught red-handed", "an insult at the council"),
    "memory": ("an old family photograph", "a toy from childhood days", "letters of a first love",
               "songs that grandparents sang", "the street as it was", "a diary kept since youth"),
    "waiting": ("a queue at the counter", "passengers sitting by the gate", "an hour of paperwork",
                "a lecture on tax forms", "a meeting about parking rules", "clerks stamping documents"),
    "concert": ("an orchestra at full strength", "a dancer on stage", "a painter finishing her mural",
                "a choir with two soloists", "a violinist playing by heart", "the premiere of an opera"),
    "rescue": ("a rescue at sea", "firefighters saving a kitten", "volunteers rebuilding a shelter",
               "a lifeguard carrying a swimmer", "strangers digging out a shepherd", "a pilot landing without fuel"),
}  # fmt: skip
"""Ways to name each topic of a caption; no wording serves two topics."""

TONES: dict[str, tuple[str, ...]] = {
    "bright": ("full of laughter and light", "that everyone will gladly remember", "better than anyone had hoped",
               "with cheers and warm hugs", "a blessing for all", "where every wish came true"),
    "plain": ("on an ordinary tuesday", "as listed in the records", "a little before noon",
              "as on any other day", "described without any comment", "according to the daily schedule"),
    "grave": ("that ended in tears", "with nobody left to help", "where everything went wrong",
              "under a bitter silence", "and the dreadful news after", "that was never forgiven"),
}  # fmt: skip
"""Ways to word each tone; every tone is worded in its own ways whatever the topic."""

TONE_SHARES = {"bright": 0.4, "plain": 0.3, "grave": 0.3}

PLACES = (
    "in the garden", "by the river", "near the old mill", "outside the town", "behind the station",
    "on the main square", "along the quiet lake", "in a small village", "beside the market hall", "up on the hill",
)  # fmt: skip
"""Places say nothing of the state: they only vary the captions."""

SIGHTS: dict[str, dict[str, tuple[str, ...]]] = {
    "thing": {
        "dog": ("beside a dog", "near a brown dog", "by a furry dog", "facing a pet dog"),
        "spider": ("beside a spider", "near a black spider", "by a hairy spider", "facing a big spider"),
        "house": ("beside a house", "near a little house", "by a lit house", "facing a cottage"),
        "heart": ("beside a heart", "near a red heart", "by a painted heart", "facing a big heart"),
        "balloon": ("beside some balloons", "near three balloons", "by coloured balloons", "facing floating balloons"),
        "tomb": ("beside a tomb", "near a tombstone", "by a grey gravestone", "facing a stone cross"),
        "cake": ("beside a cake", "near a pink cake", "by a layered cake", "facing a creamy cake"),
        "flowers": ("beside some flowers", "near potted flowers", "by four blossoms", "facing a flower pot"),
    },
    "face": {
        "smile": ("watched by someone smiling", "where a person laughs", "with a beaming onlooker"),
        "frown": ("watched by someone crying", "where a person weeps", "with a tearful onlooker"),
        "surprise": ("watched by someone gaping", "where a person stares", "with an astonished onlooker"),
        "angry": ("watched by someone scowling", "where a person fumes", "with a glaring onlooker"),
        "nobody": ("watched by no one", "where no person stands", "with no onlooker"),
    },
    "weather": {
        "clear": ("under clear skies", "in fine weather", "below an open sky"),
        "rain": ("under rainy skies", "in the rain", "during a shower"),
        "storm": ("under stormy skies", "in a thunderstorm", "amid flashing lightning"),
        "snow": ("under snowy skies", "in the snow", "while snow falls"),
        "fog": ("under hazy skies", "in the fog", "through drifting mist"),
    },
}
"""What captions of the source may say of the picture, in this order; no wording serves two values. (The light is left
out: some tones name an hour.)"""

SIGHT_SHARES = {"thing": 0.7, "face": 0.5, "weather": 0.5}
"""In how many captions of the source each attribute is named."""

PICTURE_EFFECTS: dict[str, dict[str, float]] = {
    "clear": {"happy": 1.4, "good": 2.0, "hopeful": 1.4, "joy": 1.4, "excited": 0.9, "inspired": 1.9},
    "rain": {"sad": 1.2, "annoyed": 2.5, "bored": 1.7, "upset": 1.2, "happy": -0.9, "nostalgic": 0.9},
    "storm": {"fear": 2.9, "scared": 2.3, "worried": 2.3, "awe": 2.2, "happy": -1.4, "calm": -2.2, "concerned": 1.4},
    "snow": {"beautiful": 2.2, "calm": 2.2, "nostalgic": 1.9, "awe": 1.4, "curious": -0.6},
    "fog": {"curious": 1.4, "intrigued": 2.2, "confused": 2.0, "worried": 1.2, "interested": 0.7, "fear": 0.9},
    "day": {"good": 0.9, "happy": 0.4, "neutral": 0.9, "inspired": 0.6, "fear": -0.7},
    "dusk": {"beautiful": 2.2, "inspired": 2.3, "nostalgic": 2.0, "calm": 1.4, "hopeful": 0.9},
    "night": {"scared": 1.9, "fear": 1.6, "awe": 2.3, "intrigued": 1.0, "concerned": 1.0, "good": -0.9},
    "warm": {"joy": 1.2, "excited": 0.7, "happy": 0.4, "amazed": 0.7},
    "cool": {"calm": 1.3, "interested": 0.6, "hopeful": 0.7},
    "grey": {"bored": 1.6, "neutral": 1.6, "sad": 0.6, "disgusted": 0.6},
    "dog": {"happy": 1.2, "good": 1.6, "joy": 1.4, "interested": 0.6, "proud": 1.0},
    "spider": {"disgusted": 4.3, "scared": 2.6, "fear": 2.0, "curious": 0.9, "confused": 0.6, "happy": -1.2},
    "house": {"nostalgic": 2.8, "neutral": 1.4, "calm": 1.2, "bored": 0.9},
    "heart": {"joy": 1.6, "hopeful": 1.9, "beautiful": 1.6, "happy": 0.7, "inspired": 0.9},
    "balloon": {"excited": 2.2, "amazed": 1.6, "curious": 0.6, "impressed": 1.0},
    "tomb": {"sad": 2.0, "intrigued": 1.4, "fear": 1.0, "concerned": 1.2, "happy": -1.7, "upset": 1.2},
    "cake": {"happy": 1.2, "excited": 1.2, "good": 1.2, "impressed": 1.4, "proud": 0.9},
    "flowers": {"beautiful": 2.9, "inspired": 1.2, "awe": 0.9, "good": 0.7},
    "smile": {"happy": 2.0, "joy": 1.9, "proud": 2.6, "excited": 0.9, "sad": -1.7, "good": 0.9, "impressed": 0.9},
    "frown": {"sad": 2.6, "upset": 2.8, "concerned": 2.2, "worried": 2.0, "happy": -1.7, "hopeful": -0.9},
    "surprise": {"amazed": 3.2, "impressed": 2.9, "confused": 1.9, "curious": 1.7, "excited": 1.2, "interested": 1.0},
    "angry": {"angry": 3.3, "anger": 3.5, "annoyed": 2.5, "happy": -1.7, "disgusted": 1.2, "calm": -1.7},
    "nobody": {"calm": 1.7, "neutral": 2.2, "bored": 1.9, "intrigued": 1.0, "interested": 0.7},
}
"""What each visible value raises (or lowers) on its own."""

WORD_EFFECTS: dict[str, dict[str, float]] = {
    "birthday": {"happy": 1.9, "excited": 2.4, "joy": 3.0, "good": 1.0},
    "wedding": {"beautiful": 3.5, "happy": 1.6, "joy": 2.2, "hopeful": 1.3, "excited": 0.8},
    "funeral": {"sad": 3.5, "upset": 2.2, "nostalgic": 1.4, "happy": -2.4, "concerned": 0.8},
    "hospital": {"worried": 3.4, "concerned": 3.4, "hopeful": 2.4, "fear": 1.3, "sad": 0.8},
    "journey": {"curious": 1.8, "interested": 1.8, "calm": 2.2, "awe": 2.4, "excited": 1.0, "worried": 0.8},
    "homecoming": {"happy": 1.4, "joy": 3.4, "nostalgic": 2.4, "hopeful": 1.8, "good": 1.9, "calm": 1.1},
    "match": {"excited": 2.7, "impressed": 2.7, "proud": 2.9, "interested": 0.8},
    "exam": {"worried": 2.1, "confused": 3.0, "bored": 1.9, "proud": 1.6, "neutral": 1.3},
    "accident": {"fear": 3.5, "scared": 3.7, "concerned": 1.9, "upset": 1.6, "happy": -2.4, "sad": 1.3},
    "discovery": {"curious": 3.2, "intrigued": 4.0, "amazed": 2.7, "scared": 1.9, "confused": 1.6, "interested": 1.6},
    "quarrel": {"angry": 3.8, "anger": 3.8, "annoyed": 2.9, "disgusted": 2.7, "upset": 1.6, "happy": -1.6},
    "memory": {"nostalgic": 4.2, "calm": 3.4, "beautiful": 1.3, "curious": 0.6, "interested": 0.6},
    "waiting": {"bored": 4.3, "annoyed": 4.0, "neutral": 2.7, "happy": -1.0, "excited": -1.3},
    "concert": {"awe": 4.3, "amazed": 3.7, "impressed": 3.4, "inspired": 3.0, "beautiful": 2.2},
    "rescue": {"inspired": 3.4, "hopeful": 2.6, "proud": 3.0, "good": 1.9, "amazed": 1.6, "worried": 1.0},
    "bright": {"happy": 2.2, "joy": 1.9, "excited": 1.4, "inspired": 1.6, "good": 1.8, "proud": 1.4, "amazed": 1.3,
               "hopeful": 1.0, "sad": -2.6, "angry": -1.9, "anger": -1.6, "upset": -1.6, "beautiful": 1.3},
    "plain": {"neutral": 3.2, "bored": 2.4, "interested": 1.6, "curious": 1.1, "calm": 1.8, "intrigued": 0.8},
    "grave": {"sad": 2.7, "upset": 2.2, "angry": 1.4, "fear": 1.9, "scared": 1.6, "worried": 1.3, "concerned": 1.3,
              "disgusted": 1.9, "anger": 1.3, "happy": -2.6, "excited": -1.9, "good": -1.6, "calm": -1.6},
}  # fmt: skip
"""What each topic and each tone raises (or lowers) on its own."""

INTERACTIONS: dict[tuple[str, str], dict[str, float]] = {
    # The same bright words under another sky, beside another face.
    ("bright", "clear"): {"hopeful": 1.2, "joy": 1.0, "inspired": 1.0},
    ("bright", "storm"): {"confused": 1.4, "worried": 1.2, "happy": -1.0, "awe": 1.2, "joy": -1.2},
    ("bright", "snow"): {"beautiful": 1.2, "amazed": 1.0},
    ("bright", "frown"): {"confused": 1.9, "concerned": 1.2, "joy": -1.4, "excited": -1.2},
    ("bright", "angry"): {"annoyed": 1.4, "confused": 1.4, "joy": -1.4, "proud": -1.2},
    ("bright", "tomb"): {"intrigued": 1.4, "confused": 1.0, "hopeful": 0.7},
    ("plain", "surprise"): {"curious": 1.0, "intrigued": 1.2, "bored": -1.8, "neutral": -1.8},
    ("plain", "nobody"): {"neutral": 1.0, "bored": 1.0},
    ("plain", "storm"): {"concerned": 1.0, "neutral": -1.8, "calm": -1.2},
    ("plain", "dusk"): {"calm": 1.0, "nostalgic": 0.7},
    ("grave", "smile"): {"disgusted": 1.9, "angry": 1.4, "confused": 1.4, "proud": -1.4, "happy": -1.0},
    ("grave", "frown"): {"upset": 1.0, "sad": 1.0},
    ("grave", "clear"): {"nostalgic": 1.0, "sad": -1.0, "hopeful": 1.0, "confused": 0.7},
    ("grave", "night"): {"scared": 1.0, "fear": 0.7},
    # The same event beside another thing or under another sky.
    ("birthday", "spider"): {"scared": 1.7, "disgusted": 1.0, "amazed": 0.7, "joy": -1.2},
    ("birthday", "cake"): {"joy": 1.0, "good": 1.0},
    ("birthday", "storm"): {"upset": 1.8, "sad": 1.2, "annoyed": 1.2, "excited": -1.2},
    ("wedding", "rain"): {"upset": 1.8, "annoyed": 1.0, "worried": 1.0},
    ("wedding", "tomb"): {"scared": 1.2, "intrigued": 1.4, "beautiful": -1.4},
    ("funeral", "heart"): {"nostalgic": 1.2, "beautiful": 1.2, "hopeful": 1.0},
    ("funeral", "balloon"): {"confused": 1.8, "angry": 1.4, "excited": -1.8},
    ("hospital", "smile"): {"hopeful": 1.8, "good": 1.2, "worried": -1.4, "concerned": -1.4},
    ("hospital", "tomb"): {"scared": 1.4, "fear": 1.4, "hopeful": -1.8},
    ("journey", "storm"): {"scared": 1.4, "worried": 1.4, "excited": 1.0, "calm": -1.8},
    ("journey", "night"): {"awe": 1.2, "fear": 1.0},
    ("homecoming", "frown"): {"upset": 1.2, "nostalgic": 1.0, "joy": -1.2},
    ("homecoming", "dog"): {"joy": 1.2, "happy": 0.7},
    ("match", "rain"): {"impressed": 1.0, "proud": 1.0, "annoyed": 1.0},
    ("match", "angry"): {"anger": 1.2, "excited": 0.7, "proud": -1.2},
    ("exam", "smile"): {"proud": 1.8, "confused": -1.2, "worried": -1.2},
    ("exam", "clear"): {"bored": 1.2, "annoyed": 1.0},
    ("accident", "fog"): {"fear": 1.0, "concerned": 1.2},
    ("accident", "smile"): {"disgusted": 1.8, "angry": 1.4, "anger": 1.2, "happy": -1.0},
    ("discovery", "night"): {"scared": 1.7, "intrigued": 0.7},
    ("discovery", "clear"): {"interested": 1.2, "excited": 1.0, "scared": -1.4},
    ("quarrel", "heart"): {"sad": 1.4, "upset": 1.4, "hopeful": 1.0},
    ("quarrel", "cake"): {"annoyed": 1.0, "confused": 1.4, "disgusted": 1.0},
    ("memory", "rain"): {"sad": 1.4, "nostalgic": 0.7},
    ("memory", "clear"): {"happy": 1.0, "good": 1.0},
    ("waiting", "storm"): {"worried": 1.7, "annoyed": 1.0, "bored": -1.8},
    ("waiting", "surprise"): {"confused": 1.2, "excited": 1.2, "bored": -1.8},
    ("concert", "night"): {"awe": 1.0, "beautiful": 1.0},
    ("concert", "nobody"): {"sad": 1.0, "bored": 1.2, "impressed": -1.4},
    ("rescue", "storm"): {"impressed": 1.4, "awe": 1.4, "proud": 1.0},
    ("rescue", "dog"): {"proud": 1.2, "good": 1.0},
}
"""What a word value and a picture value raise only together."""

BASE_LOGITS: dict[str, float] = {
    "happy": -1.6, "sad": -4.4, "excited": -5.1, "curious": -4.8, "interested": -4.9, "confused": -5.6,
    "angry": -5.5, "intrigued": -6.2, "concerned": -7.2, "worried": -7.2, "proud": -7.0, "hopeful": -7.8,
    "scared": -8.1, "inspired": -8.7, "bored": -8.3, "good": -8.3, "anger": -6.9, "neutral": -9.1, "upset": -8.2,
    "calm": -8.3, "fear": -8.3, "beautiful": -9.6, "annoyed": -8.1, "disgusted": -8.5, "nostalgic": -8.9,
    "impressed": -7.6, "joy": -10.2, "amazed": -8.8, "awe": -8.9,
}  # fmt: skip
"""Log odds of naming each emotion where nothing speaks for it, the most frequent emotion first; chosen so that the
share of images with each label is about that of Socratis."""
