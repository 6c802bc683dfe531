"""WinoGrande-like rows: twin sentences in which one changed word changes who or what is meant."""

import random

from sample.common import Row, Splits, table

SIZES = {"train_s": 64, "validation": 160}

# {a} and {b} are names; the word before the second bar makes `_` mean {a}, the last one {b}.
PEOPLE = """
{a} asked {b} for help with the puzzle because _ found it {w}. | hard | easy
{a} lent {b} some money for the rent because _ was {w}. | rich | broke
{a} drove {b} to the clinic because _ had {w}. | a car | a fever
{a} easily beat {b} at checkers, so _ went home feeling {w}. | proud | defeated
{a} borrowed a coat from {b} because _ felt {w} that evening. | cold | warm
{a} paid {b} to mend the roof because _ was {w} at such work. | hopeless | skilled
{a} apologized to {b} because _ had been so {w} at the meeting. | rude | hurt
{a} let {b} have the last sandwich because _ was {w}. | full | hungry
{a} handed the heavy crate to {b} because _ had {w} arms. | weak | strong
{a} taught {b} how to swim because _ was {w} the water. | confident in | afraid of
{a} could not see the stage past {b} because _ was very {w}. | short | tall
{a} won the race against {b} because _ ran so {w}. | fast | slowly
{a} thanked {b} for the present that _ had {w}. | received | given
{a} copied the homework of {b} because _ had studied {w}. | nothing | everything
{a} hired {b} as a guide through the town because _ knew it {w}. | badly | well
{a} carried the bags for {b} because _ had {w} back. | a strong | an aching
{a} sold the car to {b} because _ {w} needed one. | no longer | badly
{a} gave {b} directions to the station because _ was a {w} in that town. | resident | visitor
{a} sued {b} after the crash because _ had been {w}. | injured | careless
{a} praised {b} for the drawing because _ was very {w}. | impressed | talented
{a} followed {b} through the forest because _ had {w} the way. | forgotten | learned
{a} scolded {b} for the broken window because _ was {w}. | strict | naughty
{a} translated the letter for {b} because _ understood {w} Spanish. | some | no
{a} told {b} to speak up because _ was {w}. | hard of hearing | mumbling
{a} watched the baby for {b} because _ had {w} evening. | a free | a busy
{a} would not ride with {b} at the wheel because _ was {w}. | easily scared | often reckless
{a} woke {b} with a loud cough, and _ felt {w} about it. | guilty | angry
{a} interviewed {b} for the job, and _ {w} it in the end. | offered | got
"""

# The things that may be {a} and {b} follow the words, as pairs.
THINGS = """
The {a} broke the {b} when they collided because the _ was so {w}. | hard | fragile \
| hammer/vase, brick/mirror, rock/teacup, skillet/plate
They crossed by the {a} and not by the {b} because the _ looked {w}. | safe | unsafe \
| bridge/raft, ferry/canoe, tunnel/ford, footpath/ledge
She wore the {a} and left the {b} at home because the _ was {w}. | clean | dirty \
| coat/jacket, dress/skirt, scarf/shawl, sweater/vest
The {a} chased the {b} across the yard, and the _ looked {w}. | hungry | terrified \
| cat/mouse, fox/hen, dog/squirrel, snake/toad
The {a} was easier to lift than the {b} because the _ was {w}. | light | heavy \
| basket/trunk, pillow/mattress, stool/wardrobe, tablet/printer
The {a} burned my tongue but the {b} did not because the _ was {w}. | hot | cool \
| tea/juice, soup/salad, coffee/lemonade, stew/yogurt
I finished the {a} in a day and the {b} in a month because the _ was {w}. | short | long \
| story/novel, comic/biography, leaflet/textbook, poem/saga
We needed the {a} and not the {b} to light the cave because the _ was {w}. | bright | dim \
| lantern/candle, torch/match, headlamp/phone, floodlight/bulb
The {a} could not keep up with the {b} because the _ was so {w}. | slow | fast \
| tractor/bus, bicycle/truck, wagon/car, rowboat/yacht
We bought the {a} and left the {b} in the store because the _ was {w}. | cheap | overpriced \
| table/desk, kettle/teapot, carpet/curtain, radio/stereo
The {a} melted while the {b} stayed firm because the _ was in the {w}. | sun | shade \
| chocolate/butter, candle/crayon, fudge/cheese, snowman/icicle
The {a} withered while the {b} bloomed because the _ got {w} water. | no | enough \
| rose/tulip, daisy/lily, fern/orchid, violet/lilac
I heard the {a} in the next room but not the {b} because the _ was {w}. | loud | quiet \
| radio/clock, drum/flute, parrot/hamster, blender/fan
The knife went through the {a} but not the {b} because the _ was {w}. | soft | hard \
| bread/bone, cheese/coconut, tomato/walnut, banana/brick
"""

NAMES = table("""
Anna | Bella | Carmen | Diana | Elsa | Fatima | Gloria | Helen | Irene | Julia | Kate | Laura
Adam | Bruno | Carl | Daniel | Emil | Frank | Georg | Henry | Ivan | Jakob | Karim | Leon
""")
TRAIN_EVERY = 4  # every fourth schema is for training only


def schemas() -> list[tuple[str, str, str, list[str]]]:
    """Sentence, its two words and its pairs of things; no things where it takes names."""
    people: list[tuple[str, str, str, list[str]]] = [(text, one, two, []) for text, one, two in table(PEOPLE)]
    things = [(text, one, two, pairs.split(", ")) for text, one, two, pairs in table(THINGS)]
    return [*people, *things]


def twins(rng: random.Random, schema: tuple[str, str, str, list[str]], fill: int, flip: bool) -> list[Row]:
    """The two sentences of one schema; `flip` names the thing mentioned last first."""
    text, word_a, word_b, pairs = schema
    a, b = pairs[fill].split("/") if pairs else rng.sample(rng.choice(NAMES), 2)
    options = [b, a] if flip else [a, b]
    rows: list[Row] = []
    for word, meant in ((word_a, a), (word_b, b)):
        answer = str(options.index(meant) + 1)
        row: Row = {"sentence": text.format(a=a, b=b, w=word)}
        rows.append(row | {"option1": options[0], "option2": options[1], "answer": answer})
    return rows


def winogrande(rng: random.Random) -> Splits:
    """Whole pairs of twins, from different schemas in the two splits."""
    splits: Splits = {}
    everything = schemas()
    for split, size in SIZES.items():
        train = split == "train_s"
        own = [s for here, s in enumerate(everything) if (here % TRAIN_EVERY == 0) == train]
        pairs: list[list[Row]] = []
        for number in range(size // 2):
            fill, here = divmod(number, len(own))
            pairs.append(twins(rng, own[here], fill, flip=number % 2 == 1))
        rng.shuffle(pairs)
        splits[split] = []
        for number, pair in enumerate(pairs):
            rng.shuffle(pair)
            for row in pair:
                # As in the original, twins share an id that ends in the answer.
                splits[split].append(row | {"qID": f"SAMPLE-{split}-{number:03}-{row['answer']}"})
    return splits
