"""English with its French translation: noisy short posts (MTNT) and plain captions (Multi30k).

Nouns carry their French gender, and small functions choose articles, possessives and endings, so
that every filled template agrees in gender and number.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from sample.common import Row, Splits, capital, cut, table

MTNT_SIZES = {"train": 300, "valid": 80, "test": 100}
MULTI30K_SIZES = {"train": 300, "validation": 80, "test_2016_flickr": 100}


def one_to_one(rng: random.Random, count: int, make: Callable[[random.Random], Row]) -> list[Row]:
    """`count` pairs such that no English and no French text comes twice."""
    rows: list[Row] = []
    seen: set[object] = set()
    while len(rows) < count:
        row = make(rng)
        if seen.isdisjoint(row.values()):
            seen.update(row.values())
            rows.append(row)
    return rows


@dataclass(frozen=True)
class Noun:
    """An English noun and its French translation; `gender` is m or f."""

    en: str
    fr: str
    gender: str

    def by_gender(self, masculine: str, feminine: str) -> str:
        return masculine if self.gender == "m" else feminine

    @property
    def vowel(self) -> bool:
        return self.fr[0] in "aeiouéê"

    def forms(self, slot: str) -> dict[str, str]:
        """The noun as a template may ask for it: `the_x`, `my_x`, `this_x`, ..."""
        the = "l'" if self.vowel else self.by_gender("le ", "la ")
        my = "mon " if self.vowel else self.by_gender("mon ", "ma ")
        your = "ton " if self.vowel else self.by_gender("ton ", "ta ")
        this = self.by_gender("cet " if self.vowel else "ce ", "cette ")
        new = self.by_gender("nouvel " if self.vowel else "nouveau ", "nouvelle ")
        return {
            f"a_{slot}": self.by_gender("un ", "une ") + self.fr,
            f"the_{slot}": the + self.fr,
            f"my_{slot}": my + self.fr,
            f"your_{slot}": your + self.fr,
            f"this_{slot}": this + self.fr,
            f"of_the_{slot}": (self.by_gender("du ", "de la ") if not self.vowel else "de l'") + self.fr,
            f"new_{slot}": self.by_gender("un ", "une ") + new + self.fr,
            f"my_new_{slot}": ("ma " if new == "nouvelle " else "mon ") + new + self.fr,
            f"it_{slot}": self.by_gender("le", "la"),
            f"e_{slot}": self.by_gender("", "e"),
        }


def nouns(text: str) -> list[Noun]:
    return [Noun(en, fr, gender) for en, fr, gender in table(text)]


# --- MTNT: short posts ---

WORKS = nouns("""
movie | film | m
game | jeu | m
book | livre | m
show | série | f
comic | BD | f
podcast | podcast | m
""")
DEVICES = nouns("""
phone | téléphone | m
laptop | ordi | m
bike | vélo | m
car | voiture | f
printer | imprimante | f
camera | caméra | f
keyboard | clavier | m
guitar | guitare | f
watch | montre | f
""")
FOODS = nouns("""
pizza | pizza | f
soup | soupe | f
burger | burger | m
sandwich | sandwich | m
cake | gâteau | m
salad | salade | f
curry | curry | m
pie | tarte | f
""")
PEOPLE = nouns("""
my brother | mon frère | m
my sister | ma sœur | f
my roommate | mon coloc | m
my mom | ma mère | f
my dad | mon père | m
my boss | mon chef | m
my cousin | ma cousine | f
my grandma | ma grand-mère | f
my neighbor | mon voisin | m
my teacher | ma prof | f
""")
PETS = nouns("""
cat | chat | m
dog | chien | m
parrot | perroquet | m
rabbit | lapin | m
turtle | tortue | f
""")
# English | masculine | feminine
WORK_IS = table("""
amazing | génial | géniale
boring | ennuyeux | ennuyeuse
weird | bizarre | bizarre
too long | trop long | trop longue
underrated | sous-estimé | sous-estimée
""")
DEVICE_IS = table("""
loud | bruyant | bruyante
ugly | moche | moche
heavy | lourd | lourde
complicated | compliqué | compliquée
""")
FOOD_IS = table("""
cold | froid | froide
delicious | délicieux | délicieuse
too salty | trop salé | trop salée
disgusting | dégoûtant | dégoûtante
perfect | parfait | parfaite
""")
PERSON_IS = table("""
tired | fatigué | fatiguée
happy | content | contente
late | en retard | en retard
angry | en colère | en colère
jealous | jaloux | jalouse
""")
TIMES = table("""
last night | hier soir
this morning | ce matin
yesterday | hier
on monday | lundi
an hour ago | il y a une heure
""")
CITIES = table("""
rome | que Rome | spain | en Espagne
oslo | qu'Oslo | canada | au Canada
lima | que Lima | mexico | au Mexique
dublin | que Dublin | scotland | en Écosse
cairo | que Le Caire | greece | en Grèce
""")
# Slots: work, device, food, person, pet, time, n, h, m; {work_is} and the like agree with the noun.
POSTS = """
this {work} is {work_is}, why does nobody talk about it | {this_work} est {work_is}, pourquoi \
personne n'en parle
just finished this {work} and i have no words | je viens de finir {this_work} et je suis sans voix
the end of the {work} is {end_is} but i still love it | la fin {of_the_work} est {end_is} mais \
j'adore quand même
{person} spent {n} hours on a {work} about pirates | {person} a passé {n} heures sur {a_work} de \
pirates
{person} broke my {device} {time} | {person} a cassé {my_device} {time}
i can't believe {person} ate my {food} {time} | j'arrive pas à croire que {person} a mangé \
{my_food} {time}
my {device} died {time} and now i can't do anything | {my_device} a rendu l'âme {time} et \
maintenant je peux plus rien faire
{person} is so {person_is} today, what happened | {person} est trop {person_is} aujourd'hui, \
qu'est-ce qui s'est passé
does anyone know how to fix a {device} in {n} minutes | quelqu'un sait réparer {a_device} en {n} \
minutes
i need a {food} right now | il me faut {a_food} tout de suite
the {food} at that new place is {food_is} | {the_food} de ce nouveau resto est {food_is}
why is my new {device} so {device_is} | pourquoi {my_new_device} est si {device_is}
{person} says i'm wrong but i saw it {time} | {person} dit que j'ai tort mais je l'ai vu {time}
it's {h} am and {person} is still singing | il est {h} h du mat et {person} chante encore
i'd pay {m} bucks for a {device} like that | je paierais {m} balles pour {a_device} comme ça
stop sending me pics of your {food}, i'm starving | arrête de m'envoyer des photos de \
{your_food}, je meurs de faim
my {pet} sat on my {device} for {n} minutes | {my_pet} est resté{e_pet} assis{e_pet} {n} minutes \
sur {my_device}
my {pet} stole a {food} from {person} | {my_pet} a volé {a_food} à {person}
{person} got a new {device} and won't stop talking about it | {person} a {new_device} et n'arrête \
pas d'en parler
day {n} without my {device}, i'm going crazy | jour {n} sans {my_device}, je deviens dingue
i lost my {device} {time}, if you see it call me | j'ai perdu {my_device} {time}, si tu \
{it_device} vois appelle-moi
hope {person} likes the {device} i bought {time} | j'espère que {person} va aimer {the_device} que \
j'ai acheté{e_device} {time}
{person} thinks {city} is in {country} | {person} croit {city} est {country}
thanks to whoever left a {food} on my desk {time} | merci à la personne qui a laissé {a_food} sur \
mon bureau {time}
{person} forgot the {food} in the oven, everything is black | {person} a oublié {the_food} dans le \
four, tout est noir
"""
OPENERS = table("""
omg | omg
lol | mdr
ok so | bon alors
dude | mec
honestly | franchement
wait | attends
ugh | pfff
""")
CLOSERS = table("""
lol | mdr
smh | n'importe quoi
i swear | je te jure
no joke | sans blague
😂 | 😂
😭 | 😭
🔥 | 🔥
""")
SHORT = {
    "you": "u", "your": "ur", "because": "cuz", "please": "pls", "right now": "rn",
    "can't": "cant", "i'm": "im", "won't": "wont", "i'd": "id", "it's": "its", "about": "abt",
    "going to": "gonna", "honestly": "tbh", "without": "w/o", "nobody": "no one", "and": "n",
    "people": "ppl", "thanks": "thx", "today": "2day", "minutes": "min", "everything": "evrything",
}  # fmt: skip


def filled(rng: random.Random, en: str, fr: str) -> tuple[str, str]:
    """Both sides of a post, with the same choices for their slots."""
    left: dict[str, str] = {}
    right: dict[str, str] = {}
    chosen = {}
    kinds = {"work": WORKS, "device": DEVICES, "food": FOODS, "person": PEOPLE, "pet": PETS}
    for slot, kind in kinds.items():
        noun = chosen[slot] = rng.choice(kind)
        left[slot], right[slot] = noun.en, noun.fr
        right |= noun.forms(slot)
    adjectives = {"work": WORK_IS, "device": DEVICE_IS, "food": FOOD_IS, "person": PERSON_IS}
    for slot, adjective in adjectives.items():
        word, masculine, feminine = rng.choice(adjective)
        left[f"{slot}_is"] = word
        right[f"{slot}_is"] = chosen[slot].by_gender(masculine, feminine)
    left["end_is"], _, right["end_is"] = rng.choice(WORK_IS[1:4])
    left["time"], right["time"] = rng.choice(TIMES)
    left["city"], right["city"], left["country"], right["country"] = rng.choice(CITIES)
    for slot, low, high in (("n", 2, 12), ("h", 2, 5), ("m", 20, 300)):
        left[slot] = right[slot] = str(rng.randint(low, high))
    return en.format(**left), fr.format(**right)


def noisy(rng: random.Random, text: str) -> str:
    """`text` as typed in a hurry: short forms, and now and then two letters swapped."""
    for word, short in SHORT.items():
        if rng.random() < 0.4:
            text = re.sub(rf"(?<![\w']){re.escape(word)}(?![\w'])", short, text)
    words = text.split()
    long = [here for here, word in enumerate(words) if word.isalpha() and len(word) > 4]
    if long and rng.random() < 0.3:
        word = words[here := rng.choice(long)]
        at = rng.randrange(1, len(word) - 2)
        words[here] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def post(rng: random.Random) -> Row:
    en, fr = filled(rng, *rng.choice(table(POSTS)))
    if rng.random() < 0.4:
        opener = rng.choice(OPENERS)
        en, fr = f"{opener[0]} {en}", f"{opener[1]}, {fr}"
    en = noisy(rng, en)
    if rng.random() < 0.4:
        closer = rng.choice(CLOSERS)
        comma = "" if not closer[1][0].isalpha() else ","
        en, fr = f"{en} {closer[0]}", f"{fr}{comma} {closer[1]}"
    else:
        end = rng.choice(["", "", "!!", "..."])
        en, fr = en + end, fr + {"!!": " !!"}.get(end, end)
    if rng.random() < 0.2:
        en = en.upper() if rng.random() < 0.3 else capital(en)
    return {"en": en, "fr": capital(fr)}


def mtnt(rng: random.Random) -> Splits:
    """Posts whose English and French both differ from those of every other row."""
    rows = one_to_one(rng, sum(MTNT_SIZES.values()), post)
    return cut(rows, MTNT_SIZES)


# --- Multi30k: captions ---

# English | French | gender and number: masculine or feminine, singular or plural
SUBJECTS = table("""
a man | un homme | ms
a woman | une femme | fs
a boy | un garçon | ms
a young girl | une jeune fille | fs
an old man | un vieil homme | ms
an old woman | une vieille femme | fs
a little girl | une petite fille | fs
a tall teenager | un grand adolescent | ms
a bearded man | un homme barbu | ms
two men | deux hommes | mp
two young women | deux jeunes femmes | fp
three boys | trois garçons | mp
three girls | trois filles | fp
several people | plusieurs personnes | fp
four friends | quatre amis | mp
a group of students | un groupe d'étudiants | ms
""")
# Singular | plural | French singular | French plural | gender
CLOTHES = table("""
shirt | shirts | chemise | chemises | f
jacket | jackets | veste | vestes | f
hat | hats | chapeau | chapeaux | m
coat | coats | manteau | manteaux | m
sweater | sweaters | pull | pulls | m
scarf | scarves | écharpe | écharpes | f
cap | caps | casquette | casquettes | f
""")
# English | the French forms ms, fs, mp, fp
COLORS = table("""
red | rouge | rouge | rouges | rouges
blue | bleu | bleue | bleus | bleues
green | vert | verte | verts | vertes
yellow | jaune | jaune | jaunes | jaunes
white | blanc | blanche | blancs | blanches
black | noir | noire | noirs | noires
orange | orange | orange | orange | orange
gray | gris | grise | gris | grises
purple | violet | violette | violets | violettes
""")
# English | French singular | French plural | places where people do it
PEOPLE_DO = table("""
playing the guitar | joue de la guitare | jouent de la guitare | bench stairs stage street fountain
reading a newspaper | lit un journal | lisent un journal | bench cafe train stairs stop
taking pictures | prend des photos | prennent des photos | bridge beach park fountain street
eating ice cream | mange de la glace | mangent de la glace | bench beach park shop fountain
selling fruit | vend des fruits | vendent des fruits | market street shop
cycling | fait du vélo | font du vélo | street park bridge road
playing soccer | joue au football | jouent au football | beach park field
drinking coffee | boit du café | boivent du café | cafe bench train market
waiting | attend | attendent | stop shop fountain stairs bridge
dancing | danse | dansent | stage street beach market
sleeping | dort | dorment | bench beach train park
flying a kite | fait voler un cerf-volant | font voler un cerf-volant | beach park field
walking | marche | marchent | beach road park bridge street
talking on the phone | parle au téléphone | parlent au téléphone | bench cafe train stop street
building a snowman | construit un bonhomme de neige | construisent un bonhomme de neige \
| park field shop
painting | peint | peignent | bridge park fountain stairs
washing a car | lave une voiture | lavent une voiture | street shop house
planting flowers | plante des fleurs | plantent des fleurs | park house field
singing | chante | chantent | stage street stairs train
carrying a ladder | porte une échelle | portent une échelle | street bridge house road
looking at a map | regarde une carte | regardent une carte | bridge stop fountain road train
""")
DOGS_DO = table("""
running | court | courent | beach park field road
catching a ball | attrape une balle | attrapent une balle | beach park field
playing with a stick | joue avec un bâton | jouent avec un bâton | beach park field house
sleeping | dort | dorment | bench stairs house beach
digging a hole | creuse un trou | creusent un trou | beach field house
barking | aboie | aboient | house shop road stop
""")
PLACES = {key: (en, fr) for key, en, fr in table("""
bench | on a wooden bench | sur un banc en bois
stairs | on the stairs | dans les escaliers
stage | on a small stage | sur une petite scène
street | in a busy street | dans une rue animée
fountain | near a fountain | près d'une fontaine
cafe | in a cafe | dans un café
train | in a train | dans un train
stop | at a bus stop | à un arrêt de bus
bridge | on a stone bridge | sur un pont de pierre
beach | on the beach | sur la plage
park | in the park | dans le parc
shop | in front of a shop | devant un magasin
market | at the market | au marché
road | along a country road | le long d'une route de campagne
field | in a large field | dans un grand champ
house | behind a house | derrière une maison
""")}  # fmt: skip
# English | French | gender and number
WATCHERS = table("""
a child | un enfant | ms
a policeman | un policier | ms
two tourists | deux touristes | mp
a small crowd | une petite foule | fs
some children | des enfants | mp
""")


def colored(rng: random.Random, plural: bool) -> tuple[str, str]:
    """A garment and its color: `a red shirt`, `une chemise rouge`."""
    one, many, un, des, gender = rng.choice(CLOTHES)
    color, *forms = rng.choice(COLORS)
    form = forms[(gender == "f") + 2 * plural]
    if plural:
        return f"{color} {many}", f"des {des} {form}"
    article = "an" if color[0] in "aeiou" else "a"
    return f"{article} {color} {one}", f"{'une' if gender == 'f' else 'un'} {un} {form}"


def dog(rng: random.Random) -> list[str]:
    """A subject like those of SUBJECTS, with a color for a coat."""
    color, single, _, plural, _ = rng.choice([c for c in COLORS if c[0] in ("black", "white")])
    return rng.choice(
        [
            [f"a {color} dog", f"un chien {single}", "ms"],
            [f"two {color} dogs", f"deux chiens {plural}", "mp"],
            [f"a small {color} dog", f"un petit chien {single}", "ms"],
            [f"a brown and {color} dog", f"un chien marron et {single}", "ms"],
        ]
    )


def caption(rng: random.Random) -> Row:
    is_dog = rng.random() < 0.15
    en, fr, form = dog(rng) if is_dog else rng.choice(SUBJECTS)
    does, singular, several, where = rng.choice(DOGS_DO if is_dog else PEOPLE_DO)
    plural = form[1] == "p"
    place_en, place_fr = PLACES[rng.choice(where.split())]
    group = en.startswith("a group")
    if not is_dog and not group and rng.random() < 0.5:
        wear_en, wear_fr = colored(rng, plural)
        en, fr = f"{en} wearing {wear_en}", f"{fr} portant {wear_fr}"
    verb = "are" if plural else "is"
    does_en, does_fr = f"{verb} {does}", several if plural else singular
    kind = rng.random()
    if kind < 0.2:
        text_en, text_fr = f"{place_en}, {en} {does_en}", f"{place_fr}, {fr} {does_fr}"
    else:
        text_en, text_fr = f"{en} {does_en} {place_en}", f"{fr} {does_fr} {place_fr}"
        if kind < 0.45:
            who_en, who_fr, who = rng.choice(WATCHERS)
            watch_en, watch_fr = ("watches", "regarde") if who[1] == "s" else ("watch", "regardent")
            joint = "pendant qu'" if who_fr[0] in "aeiou" else "pendant que "
            text_en += f" while {who_en} {watch_en}"
            text_fr += f" {joint}{who_fr} {watch_fr}"
    return {"en": capital(text_en) + ".", "fr": capital(text_fr) + "."}


def multi30k_en_fr(rng: random.Random) -> Splits:
    """Captions whose English and French both differ from those of every other row."""
    return cut(one_to_one(rng, sum(MULTI30K_SIZES.values()), caption), MULTI30K_SIZES)
