// The text that means of K and V are measured on. Changing it changes every model's means (KvMeans::id).

#include "src/engine/kv_calibration.h"

namespace engine {

std::string_view calibration_text() {
  static constexpr std::string_view kText =
      R"text(The ferry left the harbour a little after six, while the town was still asleep and the lamps along the quay were going out one by one. Martha stood at the rail with her collar turned up and watched the gulls follow the wake. She had promised her brother that she would be back before the first snow, and she meant to keep that promise, although neither of them had said what would happen if the winter came early. Behind her a man in a blue coat was telling two children about a whale he had once seen here, so large that the boat had seemed to stand still beside it.

"Was it bigger than our house?" asked the girl.
"Much bigger," he said. "But it was polite. It went under us, not through us."
The boy laughed; the girl did not. She looked at the water for a long time, and then she asked whether whales ever get lost.

Once upon a time there was a little fox who did not like to share. One day he found a red ball in the garden. His friend the rabbit came and said, "Can I play too?" The fox said no. He played alone until the sun went down, and he was not happy. The next day he took the ball to the rabbit and said, "I am sorry. Let us play together." They ran and jumped and laughed all day.

How does a heat pump work? A refrigerant evaporates at low pressure and takes up heat from the air outside, even when that air is cold. A compressor raises its pressure and with it its temperature; in the condenser it gives the heat to the water of the heating system and becomes a liquid again. An expansion valve lowers the pressure, and the cycle starts over. For each kilowatt hour of electricity such a machine moves between three and five kilowatt hours of heat, which is why its coefficient of performance, and not its efficiency, is stated. Below about -15 degrees most models need help from an electric heater.

To install the package, download the archive, check its signature, and unpack it into a directory of your choice. Then run:

    tar xf archive-2.4.1.tar.gz && cd archive-2.4.1
    ./configure --prefix=/usr/local --enable-shared
    make -j8 && sudo make install

If the build fails with "undefined reference to `deflate'", the development files of zlib are missing. The server reads its settings from /etc/archive/server.conf at start and again whenever it receives SIGHUP. Changes of shared_buffers, max_connections and listen_address take effect only after a restart. See also: CREATE INDEX, VACUUM, ANALYZE.

SELECT c.name, count(*) AS orders, sum(o.total) AS revenue
FROM customers c JOIN orders o ON o.customer_id = c.id
WHERE o.placed_at >= '2024-01-01' AND o.status <> 'cancelled'
GROUP BY c.name HAVING sum(o.total) > 1000 ORDER BY revenue DESC LIMIT 20;

def moving_average(values, width):
    """Mean of the last `width` values at each position; shorter at the start."""
    if width < 1:
        raise ValueError(f"width must be positive, not {width}")
    total, out = 0.0, []
    for i, value in enumerate(values):
        total += value
        if i >= width:
            total -= values[i - width]
        out.append(total / min(i + 1, width))
    return out

#include <vector>
template <class T, class Less>
size_t lower_bound_index(const std::vector<T>& sorted, const T& key, Less less) {
  size_t first = 0, count = sorted.size();
  while (count > 0) {
    const size_t half = count / 2;
    if (less(sorted[first + half], key)) { first += half + 1; count -= half + 1; }
    else { count = half; }
  }
  return first;
}

const server = http.createServer(async (req, res) => {
  const { id } = await readJson(req);
  if (!id) return res.writeHead(400).end(JSON.stringify({ error: "id is missing" }));
  res.setHeader("Content-Type", "application/json");
  res.end(JSON.stringify(await cache.get(id) ?? {}));
});

{"user": {"id": 48213, "name": "A. Lindqvist", "roles": ["editor", "reviewer"], "active": true}, "limits": {"requests_per_minute": 120, "burst": 40}, "last_seen": "2023-11-07T16:42:09Z", "tags": []}

| year | wheat (t) | barley (t) | rainfall (mm) |
|------|-----------|------------|---------------|
| 2019 | 1,842     | 655        | 612           |
| 2020 | 2,015     | 701        | 587           |
| 2021 | 1,377     | 598        | 403           |

Let f be continuous on the closed interval [a, b] and differentiable inside it. Then there is a point c between a and b with f'(c) = (f(b) - f(a)) / (b - a). Proof. Consider g(x) = f(x) - f(a) - (x - a)(f(b) - f(a)) / (b - a). It vanishes at both ends, so by Rolle's theorem its derivative has a zero, and that is the claim. For example, with f(x) = x^2 on [0, 2] the slope of the chord is 2, and c = 1. If 3x + 7 = 22, then 3x = 15 and x = 5; 17 times 23 is 391, and 1/8 = 0.125.

Question: Which planet has the most moons, and what is the capital of Portugal?
Answer: Saturn has the most known moons, well over a hundred. The capital of Portugal is Lisbon, at the mouth of the Tagus.

User: My bread is always dense. What am I doing wrong?
Assistant: Usually one of three things. First, the yeast may be old: put some in warm water with a little sugar, and it should foam within ten minutes. Second, the dough may have risen too little; wait until it has doubled, whatever the clock says. Third, too much flour: weigh it instead of measuring by cups. Would you tell me your recipe?

The committee met on 14 March and approved the minutes of its previous meeting. The treasurer reported an income of EUR 18,240.50 and expenses of EUR 16,995.12; the difference goes to the building fund. Ms Okafor moved that the annual fee be raised from 45 to 50 euros as of January. The motion was carried with eleven votes in favour, two against and one abstention. The tenant shall keep the premises in good order and shall not sublet them, in whole or in part, without the prior written consent of the landlord, which shall not be unreasonably withheld.

The patient, a 62-year-old woman with a history of hypertension, presented with shortness of breath on exertion. Blood pressure was 148/92 mmHg, heart rate 88 per minute and regular. An echocardiogram showed mild hypertrophy of the left ventricle; the ejection fraction was normal. The dose of ramipril was increased to 10 mg once daily, and she was asked to return after four weeks.

In 1869 Dmitri Mendeleev arranged the known elements by atomic weight and left gaps where he believed that some were yet to be found. He described three of them in advance, and within two decades gallium, scandium and germanium had been discovered, with nearly the properties he had given. Historians still argue whether his boldness or the quality of his data deserves more credit.

Der Zug nach Hamburg hat heute etwa zwanzig Minuten Verspätung, weil bei Uelzen ein Baum auf den Gleisen liegt. Wir bitten um Ihr Verständnis. Le marché a lieu tous les samedis matin sur la place de l'église; on y trouve des fromages, du miel et des légumes de saison. Mi abuela vivía cerca del mar y nos contaba historias de pescadores. 今天天气很好，我们一起去公园散步吧。電車は九時に出発します。 Встреча начнётся в три часа дня.

2024-05-02 08:14:55 INFO  worker[3] job 9917 finished in 412 ms (rows=1204, retries=0)
2024-05-02 08:14:56 WARN  worker[1] connection reset by peer, retrying in 2s
2024-05-02 08:14:58 ERROR worker[1] job 9918 failed: timeout after 30000 ms

What remains is a question of patience. The hills do not hurry, and the river that cut them did its work a grain at a time. When the old surveyor was asked why he measured the same valley every spring, he answered that he wanted to know whether it was still there, and that so far it always had been.
)text";
  return kText;
}

}  // namespace engine
