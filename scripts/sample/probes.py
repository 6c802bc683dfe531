"""Rows that probe what a model knew before: easy science questions, and last words to guess."""

import random

from sample.common import Row, Splits, multiple_choice, table

# A topic is a question with a gap and a list of gap and answer. The wrong options of a question
# are answers to others of its topic, so within a topic no answer may fit another's question.
TOPICS = """
Which tool is used to {}?
measure temperature | a thermometer
measure the length of a table | a meter stick
compare the mass of two stones | a balance
measure how fast the wind blows | an anemometer
measure how much rain has fallen | a rain gauge
find out which way is north | a compass
look at the craters of the moon | a telescope
look at a single cell | a microscope
record the shaking of an earthquake | a seismograph
time a race | a stopwatch

Which part of the human body {}?
pumps blood | the heart
takes in oxygen from the air | the lungs
mixes food with acid | the stomach
controls thoughts and memory | the brain
filters waste from the blood to make urine | the kidneys
holds the body upright | the skeleton
senses light | the eyes
senses sound | the ears
covers and protects the outside | the skin
grinds food before it is swallowed | the teeth

Which of these animals is {}?
a mammal | a dog
a bird | a robin
a fish | a salmon
a reptile | a snake
an amphibian | a frog
an insect | an ant
an arachnid with eight legs | a spider
a crustacean with claws | a crab
a soft animal with a coiled shell | a snail
an animal with five arms and no head | a starfish

What is {} called?
a young cat | a kitten
a young dog | a puppy
a young cow | a calf
a young sheep | a lamb
a young horse | a foal
a young chicken | a chick
a young duck | a duckling
a young pig | a piglet
a young frog that still has a tail | a tadpole
a young butterfly before it has wings | a caterpillar

Where does {} live?
a camel | in a hot desert
a polar bear | on frozen sea
a monkey that swings from tree to tree | in a rain forest
a dolphin | in the open ocean
an earthworm | in moist soil
a large group of sleeping bats | in a dark cave
a zebra | on a grassy plain
a goat that climbs cliffs | on a rocky mountain
a tadpole | in a pond
a worker honeybee | in a hive

Which kind of scientist or worker {}?
studies rocks | a geologist
studies stars and galaxies | an astronomer
studies plants | a botanist
studies the behavior of wild animals | a zoologist
forecasts the weather | a meteorologist
digs up dinosaur bones | a paleontologist
treats sick pets | a veterinarian
repairs teeth | a dentist
mixes substances to make new compounds | a chemist
plans bridges | an engineer

Which process {}?
turns liquid water into vapor | evaporation
turns water vapor into drops | condensation
turns ice into water | melting
turns water into ice | freezing
lets plants make sugar from sunlight | photosynthesis
carries soil away with wind or water | erosion
breaks food down in the body | digestion
changes a caterpillar into a butterfly | metamorphosis
makes a species disappear forever | extinction
moves pollen from flower to flower | pollination

Which part of a plant {}?
takes up water from the soil | the roots
makes most of the food from sunlight | the leaves
holds the flowers up to the light | the stem
attracts bees with bright colors | the petals
grows into a new plant | the seed
surrounds the seeds and is often sweet | the fruit
protects the trunk of a tree | the bark
keeps animals from eating a rose bush | the thorns
is a leaf or flower that has not opened yet | the bud
is the fine powder that bees carry | the pollen

Which form of energy {}?
does a lamp give off so that we can read | light
does a stove give off to cook soup | heat
does a loudspeaker give off | sound
flows through wires to a television | electrical energy
does a rolling ball have because it moves | kinetic energy
does a book have because it lies on a high shelf | gravitational energy
is stored in food and gasoline | chemical energy
is set free when atoms are split | nuclear energy
does a wound-up clock spring hold | elastic energy
is made when a bell rings | sound

Which object {}?
gives Earth most of its light and heat | the sun
travels around Earth once a month | the moon
is the planet closest to the sun | Mercury
is the largest planet | Jupiter
is famous for its wide bright rings | Saturn
is called the red planet | Mars
is the galaxy that we live in | the Milky Way
is a ball of ice and dust with a long tail | a comet
is the planet on which people live | Earth
burns up in the air as a shooting star | a meteor

What do we call {}?
white flakes that fall in winter | snow
a narrow spinning column of air | a tornado
the noise that follows lightning | thunder
a cloud that touches the ground | fog
balls of ice that fall from a storm | hail
a colored arc in the sky | a rainbow
a giant spark in the sky | lightning
a long time without rain | a drought
water that covers land that is normally dry | a flood
a huge storm that forms over a warm ocean | a hurricane

How many {}?
days are in a week | seven
months are in a year | twelve
legs does a spider have | eight
legs does an ant have | six
hours are in a day | twenty-four
seasons are in a year | four
senses does a person have | five
minutes are in an hour | sixty
wheels does a bicycle have | two
days are in a year | 365

Which material is best for {}?
a window pane | glass
an electric wire | copper
a warm winter sweater | wool
the trunk of a log cabin | wood
the tires of a car | rubber
the pages of a book | paper
a light water bottle | plastic
the blade of a saw | steel
writing on a blackboard | chalk
a shiny wedding ring | gold

What helps {}?
a fish breathe in water | its gills
an elephant pick up leaves | its trunk
a robin fly | its wings
a camel store fat | its hump
a snail hide from birds | its shell
a kangaroo carry its baby | its pouch
a porcupine keep enemies away | its quills
a honeybee defend its hive | its stinger
a duck paddle | its webbed feet
a giraffe reach high branches | its long neck

What should you use to {}?
protect your eyes from acid | safety goggles
protect your head on a bicycle | a helmet
protect your skin from the sun at the beach | sunscreen
keep yourself in your seat in a car crash | a seat belt
stay afloat if you fall from a boat | a life jacket
clean your teeth | a toothbrush
wash germs off your hands | soap
pick up a hot pan | oven mitts
put out a small fire | a fire extinguisher
cover a cut | a bandage

What is {}?
the force that pulls a dropped ball down | gravity
the force that slows a sliding box | friction
the force that pulls nails to a horseshoe magnet | magnetism
the closed path of an electric current | a circuit
a sound that bounces back from a cliff | an echo
the bending of light in water | refraction
distance divided by time | speed
any push or pull | a force
the amount of space that an object fills | volume
the dark shape behind an object in the light | a shadow
"""

# Stories to fill: {a} and {b} are people, {x} is a thing or place and the word to guess.
STORIES = """
{a} lifted the {x} off the shelf and blew the dust from it. "It belonged to my father," {a} said. \
{b} held out both hands, and {a} gave {b} the {x}
lantern violin atlas telescope helmet clock

"Have you seen my {x}?" asked {a}. "I left it on the table an hour ago." {b} looked under the \
chairs and behind the curtain. "There was nothing on the table," {b} said. "I never saw your {x}
wallet scarf notebook camera passport umbrella

The road to the {x} was longer than {a} had thought, and by noon {b} had begun to limp. But when \
the trees opened at last, there it stood in the sun, and {a} shouted, "Look, the {x}
castle lighthouse mill temple monastery bridge

{b} had promised to come at six. {a} set out two plates, lit the candle and waited. At eight {a} \
blew out the candle, picked up the telephone and called {b}
- - - - - -

"I have only ever been afraid of one thing," said {a}, "and that is the {x}." {b} laughed. "You \
have crossed deserts and climbed mountains. Surely you are not afraid of the {x}
dark sea dentist thunder basement wind

Every morning {a} fed the {x} before school. When {a} fell ill that winter, {b} took over the \
work. "Don't worry," said {b}. "I will look after the {x}
horse rabbits chickens goat parrot ducks

The captain unrolled the {x} and weighed down its corners with stones. {a} and {b} bent over it. \
"I have looked at this a hundred times," the captain said, "and I still do not understand the {x}
map chart drawing letter plan scroll

They had been told never to open the {x}. {a} had kept that promise for a year, but {b} could not. \
One night, when the house was asleep, {b} crept down the stairs and opened the {x}
box door letter chest cupboard gate

{a} put the last coin on the counter and pointed at the {x}. "That one is not for sale," the old \
man said. {a} sighed. "But I only came here for the {x}
mask kite drum compass puppet necklace

"You cannot take the {x} with you," said {b}. "There is no room in the boat." {a} sat down on the \
dock. "Then I will stay here," {a} said. "I am not leaving without the {x}
piano dog trunk cat bicycle painting

When the lights went out, {a} reached for {b} and found only an empty chair. Somewhere a door \
closed. {a} stood up in the dark and whispered, "Are you there, {b}
- - - - - -

The {x} had stopped working on Monday. {a} had taken it apart twice and {b} had kicked it once, \
and neither had helped. "We need somebody," said {b}, "who knows how to repair a {x}
radio heater printer pump tractor motorcycle

At first {a} thought the sound came from the street. Then it came again, a soft tapping, and this \
time there was no doubt that it came from the {x}. {a} took a deep breath and walked toward the {x}
attic cellar kitchen garage closet stable

{a} and {b} had shared one {x} all summer. Now that summer was over, neither of them wanted to \
keep it and neither could bear to throw it away. So they dug a hole in the garden and buried the {x}
hat ball blanket bottle shovel basket

"Is it true that you once met {b}?" the children asked. {a} smiled and put down the newspaper. \
"Yes," said {a}. "When I was your age I met {b}
- - - - - -

The baker had run out of {x} by nine. {a}, who had walked across the whole town, stared at the \
empty shelf. "Come back tomorrow," said the baker. "Then there will be {x}
bread rolls cake cookies pie muffins

All the way home {a} kept one hand on the {x}, as if it might jump out of the bag. "Stop \
worrying," said {b}. "Who on earth would want to steal a {x}
cactus cabbage teapot turnip lampshade broom

For three days the {x} had hidden the valley. On the fourth morning {a} pulled back the curtain \
and saw the hills again. "{b}, wake up!" {a} cried. "No more {x}
fog snow smoke rain ash mist

{a} wrote the name of the {x} on a slip of paper and folded it twice. "Go there tonight," {a} told \
{b}, "and speak to no one on the way." {b} took the paper and left at once for the {x}
inn harbor museum church station market

"One of us has to tell the {x} about the window," said {a}. {b} studied the floor for a while. \
"All right," said {b}. "I will talk to the {x}
teacher principal neighbor landlord coach librarian
"""
PEOPLE = (
    "Alma Bertram Cecily Dorian Edda Fergus Greta Harold Ingrid Jasper Klara Lucian Mabel Norris "
    "Odette Percy Rosa Silas Tilda Victor"
)


def arc_easy(rng: random.Random) -> Splits:
    rows: list[Row] = []
    for topic in TOPICS.strip().split("\n\n"):
        asked, *lines = topic.splitlines()
        items = table("\n".join(lines))
        for gap, answer in items:
            pool = [item[1] for item in items]
            choices, key = multiple_choice(rng, answer, pool, "ABCD", len(rows))
            rows.append({"question": asked.format(gap), "choices": choices, "answerKey": key})
    rng.shuffle(rows)
    return {"test": rows}


def lambada(rng: random.Random) -> Splits:
    """Each story six times, with other people and, where it has one, another thing."""
    rows: list[Row] = []
    for block in STORIES.strip().split("\n\n"):
        story, things = block.rsplit("\n", 1)
        for thing in things.split():
            first, second = rng.sample(PEOPLE.split(), 2)
            text = story.format(a=first, b=second, x=thing)
            context, target = text.rsplit(" ", 1)
            rows.append({"text": text, "context": context, "target": target})
    rng.shuffle(rows)
    return {"test": rows}
