"""QASC-like rows: eight options, and two facts that lead to the answer when put together.

Fact one tells something of a group, fact two puts one member in the group. The options of a
question are of one kind (coverings, numbers, ...), so its wording does not point to the answer.
"""

import random

from sample.common import Row, Splits, capital, cut, multiple_choice, table

SIZES = {"train": 300, "validation": 120}

# Group, as "{x} is a kind of ..." names it | members, as the questions name them.
GROUPS = """
bird | a robin, a sparrow, an eagle, a pigeon, a swan, a crow, a parrot, a seagull
furry mammal | a cow, a horse, a rabbit, a mouse, a tiger, a goat, a squirrel, a wolf
fish | a trout, a salmon, a tuna, a cod, a carp, a herring, a perch
insect | an ant, a beetle, a butterfly, a wasp, a grasshopper, a cricket, a ladybug
arachnid | a spider, a tarantula, a scorpion, a tick
amphibian | a frog, a toad, a newt, a salamander, a bullfrog
reptile | a lizard, a gecko, a crocodile, an iguana, a python, a viper
conifer | a pine, a spruce, a fir, a cedar, a redwood
deciduous tree | an oak, a maple, a birch, a beech, an elm
garden flower | a rose, a tulip, a lily, a daisy, a sunflower
metal | copper, iron, silver, gold, aluminum, nickel
planet | Mercury, Venus, Mars, Jupiter, Saturn, Neptune
star | Sirius, Vega, Rigel, Betelgeuse
igneous rock | basalt, granite, obsidian, pumice
sedimentary rock | sandstone, shale, mudstone, siltstone
fossil fuel | coal, petroleum, natural gas
herbivore | a deer, a sheep, a giraffe, a zebra, a koala, a cow
carnivore | a lion, a wolf, a hawk, an otter, a lynx
stringed instrument | a guitar, a violin, a harp, a cello, a banjo
wind instrument | a flute, a trumpet, a clarinet, an oboe
drum | a bongo, a conga, a timpani
electric heater | a toaster, an oven, a hot plate, a kettle
electric lamp | a flashlight, a street light, a desk light
electric motor tool | a drill, a fan, a mixer, a blender
gas | oxygen, helium, nitrogen, hydrogen, neon
liquid | milk, water, vinegar, olive oil, lemonade
nocturnal hunter | an owl, a bat, a badger, a raccoon
hibernating animal | a groundhog, a hedgehog, a dormouse
migrating bird | a swallow, a stork, a crane
producer | grass, clover, wheat, seaweed
decomposer | a mushroom, a mold, a toadstool
lever | a seesaw, a crowbar, a bottle opener
inclined plane | a ramp, a slide, a sloping road
"""

# Group | kind of answer | a question on {x} | fact one | a statement on {x} up to the answer.
# Where fact one ends in "...", the answer follows it.
FACTS = """
bird | cover | What covers {x}? | Birds are covered with ... | is covered with | feathers
bird | tool | What does {x} peck with? | Birds peck with ... | pecks with | a beak
bird | birth | Where does {x} start its life? | Birds start life in ... | starts life in \
| a hard egg
furry mammal | cover | What covers {x}? | Furry mammals have a coat of ... | has a coat of | fur
furry mammal | milk | What is the first food of young like {x}? \
| Mammals feed their young with ... \
| feeds its young with | milk
fish | cover | What covers {x}? | The body of most fish is covered with ... | is covered with \
| scales
fish | breath | What does {x} breathe with? | Fish breathe with ... | breathes with | gills
fish | tool | What does {x} steer with? | Fish steer with ... | steers with | fins
insect | number | How many legs does {x} have? | Insects walk on legs that number ... \
| walks on legs that number | six
insect | cover | What covers {x}? | Insects are covered with ... | is covered with | a hard shell
insect | tool | What does {x} feel its way with? | Insects feel their way with ... \
| feels its way with | antennae
arachnid | number | How many legs does {x} have? | Arachnids walk on legs that number ... \
| walks on legs that number | eight
amphibian | cover | What covers {x}? | Amphibians are covered with ... | is covered with \
| moist skin
amphibian | place | Where are the young of {x} found? | Amphibians spend their youth in ... \
| spends its youth in | fresh water
reptile | heat | What warms {x} in the morning? | Reptiles are warmed by ... | is warmed by \
| sunshine
conifer | part | What does {x} keep its seeds in? | Conifers keep their seeds in ... \
| keeps its seeds in | cones
conifer | leaf | What are the leaves of {x} called? | Conifers have leaves called ... \
| has leaves called | needles
deciduous tree | drop | What does {x} drop in autumn? \
| In autumn deciduous trees drop their ... | in autumn drops its | leaves
garden flower | carrier | What carries the pollen of {x}? | Garden flowers are pollinated by ... \
| is pollinated by | bees
metal | passes | What passes easily through {x}? | Metals are good conductors of ... \
| is a good conductor of | electricity
metal | look | How does {x} look when polished? | Polished metals look ... \
| when polished looks | shiny
planet | around | What does {x} travel around? | Planets travel around ... | travels around \
| the sun
planet | glow | What makes {x} visible? | Planets shine by ... | shines by | reflected sunlight
star | glow | What makes {x} shine? | Stars shine by ... | shines by | nuclear fusion
igneous rock | origin | What did {x} form from? | Igneous rock forms from ... | forms from \
| cooled magma
sedimentary rock | origin | What did {x} form from? | Sedimentary rock forms from ... \
| forms from | layers of sediment
fossil fuel | origin | What was {x} made from? | Fossil fuels formed from ... \
| formed from | ancient living things
fossil fuel | gas | What does burning {x} add to the air? | Burning fossil fuels makes ... \
| when burned makes | carbon dioxide
herbivore | food | What does {x} live on? | Herbivores live on ... | lives on | plants
carnivore | food | What does {x} live on? | Carnivores live on ... | lives on | meat
stringed instrument | vibrates | What vibrates in {x}? \
| Stringed instruments sound by a vibrating ... \
| sounds by a vibrating | string
wind instrument | vibrates | What vibrates in {x}? | Wind instruments sound by a vibrating ... \
| sounds by a vibrating | column of air
drum | vibrates | What vibrates in {x}? | Drums sound by a vibrating ... \
| sounds by a vibrating | skin
electric heater | energy | What is {x} meant to give off? | Electric heaters turn current into ... \
| is meant to turn current into | heat
electric lamp | energy | What is {x} meant to give off? | Electric lamps turn current into ... \
| is meant to turn current into | light
electric motor tool | energy | What is {x} meant to make? | Electric motors turn current into ... \
| is meant to turn current into | motion
gas | amount | How much of a closed jar does {x} fill? | Gases spread until they fill ... \
| spreads until it fills | all of the jar
gas | shape | What shape does {x} have? | Gases have ... | has | no shape of its own
liquid | pour | What shape does {x} take? | Liquids take the shape of ... \
| takes the shape of | its container
liquid | change | What does {x} turn into when heated enough? | Heated liquids turn into ... \
| when heated enough turns into | a gas
nocturnal hunter | time | When does {x} look for food? | Nocturnal hunters feed at ... \
| feeds at | night
hibernating animal | winter | How does {x} survive winter? \
| Hibernating animals survive winter by ... \
| survives winter by | sleeping deeply
migrating bird | winter | How does {x} survive winter? | Migrating birds survive winter by ... \
| survives winter by | flying south
producer | source | What gives {x} its energy? | Producers get energy from ... \
| gets energy from | sunlight
decomposer | source | What gives {x} its energy? | Decomposers get energy from ... \
| gets energy from | dead matter
lever | turns | What does {x} turn on? | Levers turn on ... | turns on | a fulcrum
inclined plane | saves | What does {x} reduce? | Inclined planes reduce ... | reduces \
| the force needed
"""

# Wrong for every group that is asked about the kind; right answers of other groups are added.
OTHERS = """
cover | bark, petals, sand, moss, leaves, quills, wax
tool | pincers, hooves, a trunk, tentacles, whiskers, suckers, horns
birth | a cocoon, a pouch, a seed, a cone, a shell of ice, a flower, a web
milk | honey, grass, meat, worms, nectar, pollen, seeds
breath | leaves, roots, fins, a snorkel, scales, a beak, antennae
number | two, three, four, five, seven, nine, ten, twelve
place | salt mines, dry sand, tree tops, deep snow, hot ash, the open sea, old nests
heat | moonlight, thick fur, cold rain, starlight, fallen snow, the wind, a deep sleep
part | pods, berries, roots, nuts, petals, pouches, tubers
leaf | fronds, petals, blades, pads, thorns, husks, pods
drop | trunk, roots, bark, branches, twigs, rings, sap
carrier | wolves, snakes, fish, worms, frogs, rocks, foxes
passes | light, water, air, sand, milk, smoke, dust
look | dull, woolly, see-through, soft, wet, cloudy, furry
around | the moon, Earth, a comet, the North Star, an asteroid, Pluto, a meteor
glow | burning wood, lightning, moonlight, glowing moss, hot gas lamps, rainbows, fireflies
origin | frozen rain, melted plastic, sea salt, rusty iron, moon dust, falling stars, glass
gas | pure oxygen, helium, neon, chlorine, argon, fresh air, ozone
food | sand, sunlight, soil, stones, air, wax, rust
vibrates | battery, magnet, wire coil, spring, glass pipe, wheel, lamp
energy | food, fuel, wind, magnetism, steam, rain, gravity, coal
amount | none of the jar, the top half, one corner, a thin layer, the bottom, a tenth, the rim
shape | a cube, a ball, a flat sheet, a long rod, a cone, a ring, a star
pour | the table, a cloud, a cube, a feather, the sun, a crystal, its price
change | a solid, a metal, a rock, a crystal, a plant, a magnet, a seed
time | noon, sunrise, lunchtime, breakfast, midday, teatime, mid-morning
winter \
| making fires, storing wood, growing horns, laying eggs, drinking sap, building igloos
source | moonlight, sound, stones, salt, magnets, rust, wind
turns | a wire, a magnet, an echo, a lens, a battery, a spark, a shadow
saves | the weight of things, gravity, light, the air, the distance, noise, daylight
"""


def sentence(text: str) -> str:
    return capital(text) + "."


def question_pair(
    rng: random.Random, fact: list[str], member: str, pool: list[str], number: int
) -> list[Row]:
    """Two questions on one fact: a plain one, and the statement with its end asked for."""
    group, _, asked, law, statement, answer = fact
    statement = f"{member} {statement}"
    article = "an" if group[0] in "aeiou" else "a"
    rows: list[Row] = []
    for question in (asked.replace("{x}", member), f"{capital(statement)} what?"):
        choices, key = multiple_choice(rng, answer, pool, "ABCDEFGH", number + len(rows))
        pairs = zip(choices["label"], choices["text"], strict=True)
        rows.append(
            {
                "id": f"SAMPLE-{number + len(rows):04}",
                "question": question,
                "choices": choices,
                "answerKey": key,
                "fact1": law.replace("...", answer) + ".",
                "fact2": sentence(f"{member} is {article} {group}"),
                "combinedfact": sentence(f"{statement} {answer}"),
                "formatted_question": " ".join([question, *(f"({a}) {b}" for a, b in pairs)]),
            }
        )
    return rows


def qasc(rng: random.Random) -> Splits:
    """Both questions on one fact stay in one split, so that no answer is seen in training."""
    members = {group: names.split(", ") for group, names in table(GROUPS)}
    pools = {kind: others.split(", ") for kind, others in table(OTHERS)}
    facts = table(FACTS)
    for _, kind, _, _, _, answer in facts:
        pools[kind].append(answer)
    asked = [(fact, member) for fact in facts for member in members[fact[0]]]
    rng.shuffle(asked)
    rows: list[Row] = []
    for fact, member in asked:
        rows += question_pair(rng, fact, member, pools[fact[1]], len(rows))
    splits = cut(rows, SIZES)
    for part in splits.values():
        rng.shuffle(part)
    return splits
