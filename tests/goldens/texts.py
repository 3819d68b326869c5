# ruff: noqa: RUF001 (text in many scripts is the point here)
"""Text for the prompts of the real model: prose, code, lists and other languages.

Written for these goldens. Long prompts are runs of this text, so it is varied on purpose: a model
that only ever repeats itself would hide mistakes.
"""

from __future__ import annotations

LIGHTHOUSE = """\
The lighthouse at Brannock Point was built twice. The first tower, finished in the autumn of 1811, \
stood for only nine winters before the sea took the rock from under it; the keeper, a careful man \
named Aldous Penrith, had moved his family inland the week before because, he said, the floor had \
begun to hum. The second tower was set eighty yards back and forty feet higher, on granite, and \
the engineers who planned it kept a diary of every wave that broke over the old foundation. They \
counted four hundred and twelve in a single January. Today the diary lies in the county museum \
between a stuffed cormorant and a model of a steam crane, and hardly anyone asks to see it. Those \
who do usually want to know one thing: why did the engineers stop writing in the middle of a \
sentence on the third of March? The answer is less romantic than the guides pretend. The ink had \
frozen, the relief boat was late, and the man who held the pen was needed at the pumps.
"""

PYTHON = '''\
from collections import OrderedDict


class LeastRecentlyUsed:
    """A mapping that forgets what was not asked for the longest."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self._capacity = capacity
        self._items: OrderedDict[str, bytes] = OrderedDict()

    def get(self, key: str) -> bytes | None:
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key]

    def put(self, key: str, value: bytes) -> None:
        self._items[key] = value
        self._items.move_to_end(key)
        while len(self._items) > self._capacity:
            self._items.popitem(last=False)
'''

GERMAN = """\
Als der Zug endlich in den kleinen Bahnhof einfuhr, war es schon dunkel, und auf dem Bahnsteig \
stand nur eine einzige Person: eine ältere Dame mit einem roten Schirm, obwohl es seit Wochen \
nicht geregnet hatte. »Sie müssen der neue Lehrer sein«, sagte sie, ohne zu fragen. »Kommen Sie, \
der Weg ist länger, als man denkt, und die Straßenlaternen brennen nur bis zehn.« Unterwegs \
erzählte sie von der Schule, von den siebzehn Kindern und von dem Klavier, das niemand mehr \
stimmen konnte, weil der letzte Klavierstimmer der Gegend nach Übersee ausgewandert war.
"""

RECIPE = """\
## Flatbread with onions (serves 4)

1. Mix 300 g of flour, 5 g of salt and 4 g of dry yeast in a large bowl.
2. Add 190 ml of lukewarm water and 2 tablespoons of olive oil; knead for 8 minutes.
3. Cover and let it rise for 45 minutes, or until doubled in size.
4. Meanwhile, slice 3 onions thinly and fry them slowly until they are golden, about 20 minutes.
5. Heat the oven to 240 °C. Roll the dough out to a thickness of half a centimetre.
6. Spread the onions on top, add black pepper and thyme, and bake for 12-14 minutes.

Notes: the dough keeps for two days in the fridge. Rye flour works, but then use 20 ml more water.
"""

FRENCH = """\
La bibliothèque municipale ferme à dix-huit heures, sauf le jeudi. Ce soir-là, pourtant, une \
lumière brûlait encore au deuxième étage, derrière les rayons consacrés à l'histoire des ponts. \
Camille posa son vélo contre la grille et hésita. Était-ce le gardien, ou bien quelqu'un qui \
cherchait la même carte qu'elle ? Elle se souvenait très bien du numéro de cote, 914.4, et de la \
tache d'encre en forme d'étoile sur la couverture.
"""

C_CODE = """\
#include <stddef.h>
#include <stdint.h>

/* FNV-1a, 32 bits: multiply after xor, byte by byte. */
uint32_t fnv1a(const void *data, size_t length) {
    const unsigned char *bytes = data;
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < length; ++i) {
        hash ^= bytes[i];
        hash *= 16777619u;
    }
    return hash;
}

int main(void) {
    static const char *words[] = {"alpha", "beta", "gamma", "delta"};
    for (size_t i = 0; i < sizeof words / sizeof *words; ++i) {
        printf("%-8s %08x\\n", words[i], fnv1a(words[i], strlen(words[i])));
    }
    return 0;
}
"""

DIALOGUE = """\
"You are late," said the clockmaker, without looking up from the bench.
"Your sign says nine."
"My sign says nine, my clocks say ten past, and only one of them was made by my brother-in-law."
Ines put the parcel on the counter. It ticked, though not very regularly. "It belonged to my \
grandmother. It runs backwards on Sundays."
"Only on Sundays?" Now he did look up.
"Only on Sundays, and only in the kitchen."
He took a loupe from his waistcoat, opened the case with a fingernail and was silent for so long \
that she began to count the pendulums on the wall. There were thirty-one. None of them agreed.
"Well," he said finally, "the good news is that there is nothing wrong with the clock."
"And the bad news?"
"The bad news concerns your kitchen."
"""

JAPANESE = """\
山のふもとの小さな村に、古い時計台がありました。時計台の鐘は一日に三回鳴ることになっていましたが、\
実際には、鐘つきの老人が昼寝をしているあいだは鳴りませんでした。村の人々はそれをよく知っていて、\
鐘が二回しか鳴らない日は「今日はよく眠れたようだ」と言って笑いました。ある春の日、都会から来た\
若い技師が、電気で動く新しい鐘を取り付けようと提案しました。
"""

TABLE = """\
| element  | symbol | number | melting point (°C) | found |
|----------|--------|--------|--------------------|-------|
| hydrogen | H      | 1      | -259.1             | 1766  |
| carbon   | C      | 6      | 3550               | -     |
| iron     | Fe     | 26     | 1538               | -     |
| gallium  | Ga     | 31     | 29.8               | 1875  |
| tungsten | W      | 74     | 3422               | 1783  |
| mercury  | Hg     | 80     | -38.8              | -     |

Of these, gallium melts in the hand and mercury is liquid at room temperature.
"""

PROOF = """\
Claim. There are infinitely many primes of the form 4k + 3.

Proof. Suppose there are only finitely many, and call them p_1, ..., p_n. Consider the number \
N = 4 * p_1 * p_2 * ... * p_n - 1. It is of the form 4k + 3, and it is larger than 1, so it has a \
prime factor. A product of numbers of the form 4k + 1 is again of that form, so not every prime \
factor of N can be of the form 4k + 1; and 2 does not divide N because N is odd. Therefore some \
prime q = 4m + 3 divides N. But q is one of the p_i, so q divides N + 1 as well, and hence q \
divides 1, a contradiction. QED

Remark. The same trick fails for 4k + 1: a product of two numbers of the form 4k + 3 is of the \
form 4k + 1. There one takes N = (2 * p_1 * ... * p_n)^2 + 1 instead.
"""

SPANISH = """\
El mercado de los sábados empieza antes de que salga el sol. Los primeros en llegar son los \
panaderos, después los hombres del pescado y, por último, una señora que vende hilos de todos los \
colores y que nunca dice buenos días. ¿Qué hace con el dinero? Nadie lo sabe. Hay quien cuenta \
que tiene una casa en la costa, llena de relojes y de pájaros, y que los domingos canta.
"""

JSON = """\
{
  "name": "harbour-sensors",
  "version": "2.4.1",
  "stations": [
    {"id": "north-pier", "depth_m": 7.25, "tags": ["tide", "salinity"], "active": true},
    {"id": "old-lock", "depth_m": 3.5, "tags": ["tide"], "active": false},
    {"id": "dry-dock", "depth_m": null, "tags": [], "active": true}
  ],
  "limits": {"tide": [-1.2, 4.8], "salinity": [28, 36]},
  "contact": "harbour@example.org"
}
"""

RUSSIAN = """\
Вечером снег перестал, и над рекой поднялся тонкий туман. Старый мост, построенный ещё до войны, \
скрипел при каждом шаге, как будто жаловался на холод. Мы шли молча, потому что говорить было не \
о чем: письмо пришло утром, и в нём было всего одно слово.
"""

ESSAY = """\
People who repair things for a living tend to distrust the word "broken". A pump is not broken; it \
has lost its prime, or its seal has hardened, or somebody has wired the motor the wrong way round. \
To say that it is broken is to stop looking. The habit of asking what exactly has changed, and \
when, is worth more than any tool on the wall, and it is slow to learn because it feels like \
delay. The customer is standing there; the cellar is filling with water; surely it would be \
better to do something. And yet the mechanics I have known who were truly fast were those who \
spent the first minutes with their hands in their pockets. They listened. They asked what the \
thing had sounded like the day before. They put a palm on the housing and waited. Then they did \
one small thing, and it worked, and the customer wondered aloud whether it was fair to pay for \
an hour when the repair had taken a moment. The answer is an old one: a moment for turning the \
screw, and thirty years for knowing which.

There is a second habit, which is to leave the machine in a better state than the one that was \
asked for, but not in a different one. A new gasket, yes; a clean terminal, a label with the date. \
Not a new layout of pipes, however sensible, because the next person will come with a picture of \
the old layout in mind. Improvement that nobody was told about is a trap with good intentions. \
Write it down, say it aloud, or leave it for the day when it is the job itself.
"""

SHELL = """\
$ tar -tzf backup-2024-02-29.tar.gz | head -n 4
etc/
etc/hosts
etc/ssh/
etc/ssh/sshd_config
$ find . -name '*.log' -mtime +30 -print0 | xargs -0 rm -v --
removed './app/2023-12-01.log'
removed './app/2023-12-02.log'
$ git log --oneline -3
9f3c2ab Read the window from the config instead of assuming 512
51d07be Tests: a chunk larger than the window
"""

CHINESE = """\
清晨的港口很安静，只有几只海鸥在桅杆之间盘旋。老船长把茶杯放在栏杆上，望着远处的灯塔，\
说：“三十年前，我第一次出海的时候，那座灯塔还没有建好。”年轻的水手们围坐在甲板上，\
等着他继续讲下去，可是他只是笑了笑，把帽子压低了一些。
"""

POEM = """\
The ferry left at half past four,
the gulls went with it, as before;
and on the quay a single shoe
(its owner gone to Timbuktu?)
waited, laced, as if to say
that someone might come back some day.
"""

EMOJI = """\
Weekly status 🚢: the northern crane is fixed ✅, the fog horn is not ❌ (again 🙄). Tide at \
06:42 🌊, wind 5–6 from NW 💨. Café “Zur Möwe” reopens on Friday — naïve rumours say with free \
crêpes 🥞. Τα λέμε αύριο! שלום. مرحبا بالعالم.
"""

TEXTS: dict[str, str] = {
    "lighthouse": LIGHTHOUSE,
    "python": PYTHON,
    "german": GERMAN,
    "recipe": RECIPE,
    "french": FRENCH,
    "c": C_CODE,
    "dialogue": DIALOGUE,
    "japanese": JAPANESE,
    "table": TABLE,
    "proof": PROOF,
    "spanish": SPANISH,
    "json": JSON,
    "russian": RUSSIAN,
    "essay": ESSAY,
    "shell": SHELL,
    "chinese": CHINESE,
    "poem": POEM,
    "emoji": EMOJI,
}
"""Each text by name, in the order in which long prompts run through them."""
